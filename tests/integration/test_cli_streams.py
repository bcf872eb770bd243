"""A service whose terminal, pipe or disk for messages has gone serves on and ends well; a command reports a failure."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pushsvc import cli
from pushsvc.cli.devices.export import _export
from pushsvc.cli.operator.operator import ExportedDevices
from pushsvc.cli.service.parts import FEEDBACK
from pushsvc.store import open_store

from ..bench.registry import Population
from .ports import free_ports
from .processes import Api, Processes, own_processes, until
from .servers import Server, running_server
from .terminal import at_terminal
from .test_jobs import CONFIG as FILE


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server("redis") as found:
        yield found


@pytest.fixture
def processes(tmp_path: Path, server: Server) -> Iterator[Processes]:
    server.flush()
    (tmp_path / "pushsvc.toml").write_text(FILE.format(url=server.url, folder=tmp_path))
    with own_processes(tmp_path) as own:
        yield own


def shell(processes: Processes, line: str, **environ: str) -> subprocess.Popen[bytes]:
    """A line of a shell, in which `pushsvc` is this one; it becomes the command."""
    text = "exec " + line.replace("pushsvc", f"{sys.executable} -m pushsvc", 1)
    return subprocess.Popen(
        ["bash", "-c", text],
        cwd=processes.folder,
        env=processes.environ(PUSHSVC_CONFIG=str(processes.folder / "pushsvc.toml"), **environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("stream", [">&- 2>&- <&-", "2> >(true)"])
def test_a_service_does_not_need_anybody_to_hear_it(processes: Processes, stream: str) -> None:
    port = str(free_ports())
    up = shell(processes, f"pushsvc up {stream}", PUSHSVC__SERVER__PORT=port, PUSHSVC__LOGGING__LEVEL="debug")
    api = Api(f"http://127.0.0.1:{port}")
    api.until_ready()
    assert api.call("GET", "/healthz")[0] == 200
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0
    up.communicate()


def test_a_part_that_is_asked_to_stop_in_its_first_instant_ends_well(processes: Processes) -> None:
    """Whatever it is at then: loading, connecting, or not even that."""
    for command, number in (("serve", 2), ("dispatch", 15), ("feedback", 15), ("jobs", 15)):
        part = shell(processes, f"pushsvc {command}", PUSHSVC__SERVER__PORT=str(free_ports()))
        # From then on its signals are its own: the interpreter has started.
        until(lambda: f"{command} catches signals", lambda: catches(part.pid, signal.SIGTERM))  # noqa: B023  # at once
        part.send_signal(signal.SIGHUP)
        part.send_signal(number)
        out, err = part.communicate(timeout=60)
        assert part.returncode == 0, (command, err)
        assert b"Traceback" not in out + err


def catches(pid: int, number: signal.Signals) -> bool:
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & 1 << (number - 1))
    return False


AWAY = ("--url", "http://127.0.0.1:1/where-no-service-listens")


@contextmanager
def a_service_that_refuses_every_key() -> Iterator[str]:
    """Answer each request with 401, at the port that is yielded."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("nonsense",), 2),
        (("send", "--ttl", "a-long-time", "--lane", "bulk"), 2),
        (("status", "0190a4b2-0000-7000-8000-000000000000", *AWAY), 1),
        (("serve", "-c", "a/folder/with/a/long/name/and/no/configuration/in/it/pushsvc.toml"), 1),
        (("keys", "new", "--app", "an-app-that-no-configuration-names-and-no-key", "--name", "backend"), 1),
        (("feedback", "-c", "none.toml"), 1),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_a_command_says_is_folded_at_a_terminal_and_plain_in_a_pipe(
    words: tuple[str, ...], code: int, processes: Processes
) -> None:
    with a_service_that_refuses_every_key() as port:
        environ = processes.environ(PUSHSVC_CONFIG="pushsvc.toml", PUSHSVC_KEY="key", PUSHSVC__SERVER__PORT=port)
        command = [sys.executable, "-m", "pushsvc", *words]
        piped = subprocess.run(command, cwd=processes.folder, env=environ, capture_output=True, text=True, check=False)
        with at_terminal(*words, cwd=processes.folder, environ=environ, columns=80) as terminal:
            assert (terminal.wait(), piped.returncode) == (code, code)
    lines = terminal.shown.splitlines()
    assert max(map(len, lines)) <= 80
    first = piped.stderr
    if words[0] == "feedback":
        first = f"{FEEDBACK} {first}"
        assert lines[0].startswith("pushsvc feedback runs workers of the service")
        assert "GET /v1/feedback" in lines[1]
    assert terminal.shown.split() == first.split()
    assert max(map(len, piped.stderr.splitlines())) > 80 or words[0] in ("nonsense", "feedback")


def fill(server: Server, count: int) -> None:
    async def main() -> None:
        async with open_store(server.url) as store:
            await store.registry.put_many("shop", Population(3).range(0, count))

    asyncio.run(main())


def test_an_export_into_what_is_no_regular_file(server: Server, processes: Processes) -> None:
    fill(server, 700)
    fifo = processes.folder / "f.ndjson"
    os.mkfifo(fifo)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    export = shell(processes, "pushsvc devices export f.ndjson --app shop")
    assert export.wait(60) == 0
    export.communicate()
    reader.join(60)
    assert read[0].count(b"\n") == 700
    assert stat.S_ISFIFO(fifo.stat().st_mode)

    full = shell(processes, "pushsvc devices export /dev/full --app shop --format csv")
    _, err = full.communicate(timeout=60)
    assert (full.returncode, err) == (1, b"pushsvc: /dev/full cannot be written: No space left on device\n")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    out = shell(processes, "pushsvc devices export - --app shop >/dev/full")
    _, err = out.communicate(timeout=60)
    assert (out.returncode, err) == (1, b"pushsvc: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_an_export_that_is_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    async def endless(app: str, *, tombstones: bool) -> AsyncIterator[ExportedDevices]:
        while True:
            (part,) = tmp_path.glob("e.csv.*.part")
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
            yield ExportedDevices([], 0.5)

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(exporting=endless)

    monkeypatch.setattr("pushsvc.cli.devices.export.open_operator", opened)
    nowhere: Any = None
    export = _export(nowhere, "shop", "", "", str(tmp_path / "e.csv"), "csv", tombstones=False)
    assert asyncio.run(export) is None
    assert list(tmp_path.iterdir()) == []


def test_an_import_from_a_pipe_has_no_files_beside_it(server: Server, processes: Processes) -> None:
    line = """pushsvc devices import <(sleep 1.5; echo '{"id": "a", "platform": "apns", "token": "%s"}'; echo bad)"""
    piped = shell(processes, line % ("ab" * 32) + " --app shop --format ndjson --rejects bad")
    out, err = piped.communicate(timeout=60)
    assert (piped.returncode, err) == (
        0,
        b"1 bad line: bad lists the faults; line 2: $: is not JSON\n",
    )
    assert out.startswith(b"1 device imported")
    assert (processes.folder / "bad").exists()
    assert not list(Path("/dev/fd").glob("*.position"))
    resumed = shell(processes, "pushsvc devices import <(true) --app shop --format ndjson --resume")
    _, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 2
    assert b"only a regular file can be resumed" in err


@pytest.mark.parametrize(
    "line",
    [
        *("failed", "keys list", "webhooks list", "devices show d", "devices export x.csv --app shop", "stats"),
        *("cleanup --dry-run", "replay --dry-run", "devices restore --dry-run", "users erase u --app shop", "cleanup"),
        *("devices delete d --app shop", "keys revoke --app shop --name n"),
    ],
)
def test_a_command_that_looks_starts_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """An answer from an empty store of one's own is a wrong answer. Nor does a change make one."""
    monkeypatch.chdir(tmp_path)
    config = FILE.split("[redis]")[0] + FILE[FILE.index("[apps.shop.apns]") :]
    (tmp_path / "pushsvc.toml").write_text(config.format(url="", folder=tmp_path))
    assert cli.main([*line.split(), "--config", "pushsvc.toml"]) == 1
    reported = capsys.readouterr().err
    assert "no store" in reported
    assert "start the service there (`pushsvc up`)" in reported
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pushsvc.toml"]
    assert cli.main(line.split()) == 1
    reported = capsys.readouterr().err
    assert "names no app" in reported or "no such app" in reported
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pushsvc.toml"]


def test_up_that_is_asked_to_stop_before_it_is_ready_does_not_wait_for_that(tmp_path: Path) -> None:
    """As where Redis is away: it waits for Redis, and the API is never ready."""
    (tmp_path / "pushsvc.toml").write_text(FILE.format(url="unix:///nonesuch.sock", folder=tmp_path))
    with own_processes(tmp_path) as processes:
        up = processes.start("up", "--config", "pushsvc.toml", PUSHSVC__SERVER__PORT=str(free_ports()))
        up.until("redis_away")
        up.process.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
        assert "pushsvc listens on" not in up.output()
