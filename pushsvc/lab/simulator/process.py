"""Runs a simulator in a process of its own, for tests and benchmarks. The child reads its configuration from standard
input and ends when that is closed, so it never outlives its parent."""

from __future__ import annotations

import asyncio
import gc
import http.client
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from ...garbage import collect_seldom
from .certificates import Credentials
from .config import SimulatorConfig
from .controls import Commanded
from .server import Simulator


class Address(Struct, frozen=True):
    """The addresses of a simulator and the files to use it with, as `pushsvc simulate --json` prints them."""

    apns_url: str
    fcm_url: str
    control_url: str
    credentials: Credentials
    pid: int
    urls: dict[str, str]
    """The URLs of the simulated platforms."""

    def as_json(self) -> bytes:
        """Return a line of JSON without its end."""
        return msgspec.json.encode(self, enc_hook=str)

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        return msgspec.json.decode(line, type=cls, dec_hook=lambda kind, value: kind(value))


class SimulatorHandle(Commanded):
    """A simulator in another process."""

    def __init__(self, address: Address, process: subprocess.Popen[bytes], config: SimulatorConfig) -> None:
        self.urls = address.urls
        self.apns_url = address.apns_url
        self.fcm_url = address.fcm_url
        self.control_url = address.control_url
        self.credentials = address.credentials
        self.pid = address.pid
        self.process = process
        self._config = config
        self._context = ssl.create_default_context(cafile=str(address.credentials.ca_file))

    def revive(self) -> bool:
        """Restart the simulator if its process has ended, at the same addresses, with the same files and an empty
        record. Returns whether it had ended. Raises `RuntimeError` when it does not start. Blocks for a moment."""
        if self.process.poll() is None:
            return False
        _close(self.process)
        urls = {**self.urls, "control": self.control_url}
        config = structs.replace(self._config, **{f"{name}_port": urlsplit(url).port for name, url in urls.items()})
        address, self.process = _start(config)
        self.pid = address.pid
        return True

    def call(self, method: str, path: str, content: Any = None) -> Any:
        """Call the control API. Raises `RuntimeError` with its answer when that is not 2xx."""
        parts = urlsplit(self.control_url)
        connection = http.client.HTTPSConnection(parts.netloc, context=self._context, timeout=30)
        try:
            connection.request(method, path, None if content is None else msgspec.json.encode(content))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {body.decode(errors='replace')}")
        return msgspec.json.decode(body) if body else None

    def control(self, command: str, **fields: Any) -> int:
        touched: int = self.call("POST", f"/control/{command}", fields)["touched"]
        return touched

    def state(self) -> dict[str, Any]:
        """Return the switches, connections, waiting requests, and the process's CPU seconds and memory."""
        state: dict[str, Any] = self.call("GET", "/control")
        return state

    def record(self) -> dict[str, Any]:
        """Return all counts: of all platforms together, and by the name of each."""
        record: dict[str, Any] = self.call("GET", "/record")
        return record

    def clear(self) -> None:
        """Delete the recorded requests."""
        self.call("DELETE", "/record")


@contextmanager
def simulator_process(folder: Path, **flags: Any) -> Iterator[SimulatorHandle]:
    """Start a simulator whose keys and credentials are in `folder`; `flags` are fields of `SimulatorConfig`. Raises
    `RuntimeError` with its output when it does not start."""
    config = SimulatorConfig(folder=str(folder), **flags)
    handle = SimulatorHandle(*_start(config), config)
    try:
        yield handle
    finally:
        _close(handle.process)


def _start(config: SimulatorConfig) -> tuple[Address, subprocess.Popen[bytes]]:
    """Start a simulator. Returns its address, once it listens, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pushsvc.lab.simulator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        if not (line := process.stdout.readline()):
            raise RuntimeError(f"the simulator did not start (exit {process.wait()}); its reason is on standard error")
        return Address.from_json(line), process
    except BaseException:
        _close(process)
        raise


def _close(process: subprocess.Popen[bytes]) -> None:
    """End a running simulator by closing its input. A signal as well could arrive when its handlers are removed
    already."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


async def run_simulator(config: SimulatorConfig, ready: Callable[[Address], None], *, until_eof: bool = False) -> None:
    """Run a simulator until SIGTERM, and SIGINT or (`until_eof`) the end of standard input. Needs `config.folder`."""
    assert config.folder is not None
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    if until_eof:
        # Ctrl-C reaches the whole process group; the parent still needs its providers while it drains.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGINT, over.set)
    collect_seldom()
    async with Simulator(config) as simulator:
        credentials = simulator.write_credentials(Path(config.folder))
        gc.freeze()
        urls = simulator.urls
        ready(Address(urls["apns"], urls["fcm"], simulator.control_url, credentials, os.getpid(), urls))
        if until_eof:
            loop.add_reader(sys.stdin.fileno(), over.set)
        await over.wait()
        if until_eof:
            loop.remove_reader(sys.stdin.fileno())
