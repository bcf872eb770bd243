"""The state of the process, as systemd asks for it with `Type=notify` and `WatchdogSec`.

Each message is one datagram to the socket that `NOTIFY_SOCKET` names (sd_notify(3)); without it nothing is sent. The
children of a supervisor send nothing: the supervisor speaks for all.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd gives to a process of its own, and no child of it is to inherit."""

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

_serving = False
"""Whether this process has reported that it is ready, and not yet that it stops."""


def reloading(monotonic: float) -> str:
    """Return the message that a reload has begun; `monotonic` is in seconds. `READY` ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={monotonic * 1_000_000:.0f}"


def address_of(environ: Mapping[str, str]) -> str | None:
    """Return the address of systemd's socket, or None. A leading `@` means the abstract namespace."""
    name = environ.get("NOTIFY_SOCKET", "")
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often this process sends a sign of life: twice in the time that systemd waits. None: never."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 2_000_000 if text.isdecimal() and int(text) else None


def notify(state: str) -> None:
    """Send a state to systemd, if it is there. Never fails and never waits."""
    address = address_of(os.environ)
    if address is None:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address)


def notify_ready() -> None:
    global _serving  # one process has one state
    _serving = True
    notify(READY)


def notify_stopping() -> None:
    """Send that the process stops."""
    global _serving
    _serving = False
    notify(STOPPING)


@contextmanager
def reload_notified() -> Iterator[None]:
    """Send that a reload has begun, and after the block that it has ended, well or not. Before the process is ready
    nothing is sent."""
    if _serving:
        notify(reloading(time.monotonic()))
    try:
        yield
    finally:
        if _serving:
            notify(READY)


def keep_watchdog() -> None:
    """Send signs of life for as long as the running loop turns, if systemd waits for them."""
    seconds = watchdog_seconds(os.environ, os.getpid())
    if seconds is None or address_of(os.environ) is None:
        return
    loop = asyncio.get_running_loop()

    def beat() -> None:
        notify(ALIVE)
        loop.call_later(seconds, beat)

    beat()
