"""What systemd hears of a process: on a real socket, in the words of sd_notify(3)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushsvc.telemetry import systemd


class Heard:
    """The socket of a systemd."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def all(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def heard(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    name = str(tmp_path / "notify") if request.param == "path" else f"pushsvc-test-{os.getpid()}"
    own = Heard(name if request.param == "path" else "\0" + name)
    monkeypatch.setenv("NOTIFY_SOCKET", name if request.param == "path" else "@" + name)
    monkeypatch.setattr(systemd, "_serving", False)
    yield own
    own.socket.close()


def test_a_life(heard: Heard) -> None:
    with systemd.reload_notified():
        pass
    assert heard.all() == []  # the process is not ready yet
    systemd.notify_ready()
    with pytest.raises(ValueError, match="refused"), systemd.reload_notified():  # noqa: PT012  # what it hears within
        assert [word.split("=")[0] for text in heard.all() for word in text.split("\n")] == [
            *("READY", "RELOADING", "MONOTONIC_USEC")
        ]
        raise ValueError("refused")
    systemd.notify_stopping()
    with systemd.reload_notified():
        pass
    assert heard.all() == ["READY=1", "STOPPING=1"]


async def test_signs_of_life(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")

    systemd.keep_watchdog()
    found: list[str] = []
    while len(found) < 3:
        await asyncio.sleep(0)
        found += heard.all()
    assert found == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_a_sign_of_life_is_sent_twice_in_the_time(environ: dict[str, str], seconds: float | None) -> None:
    assert systemd.watchdog_seconds(environ, 7) == seconds


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (None, "", "vsock:2:1", str(tmp_path / "gone")):
        if name is None:
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify(systemd.READY)
    assert systemd.address_of({}) is None
