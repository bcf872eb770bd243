"""TCP ports for servers that cannot choose one themselves, each for one test alone."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path

_FIRST, _BEHIND_LAST = 11_000, 32_000
"""Below the ephemeral ports (from 32768 on Linux): no connection uses one of these."""

_reserved: list[int] = []
"""Descriptors of the locks that this process holds; they end with it, however it ends."""


def free_ports(count: int = 1) -> int:
    """The first of `count` ports in a row that nobody listens on, reserved for this process among all test runs.

    It is not enough that no process listens: the server for the port starts later, and until then another test
    would find the same one.
    """
    while True:
        first = _FIRST + secrets.randbelow(_BEHIND_LAST - _FIRST - count)
        if _reserve(range(first, first + count)):
            return first


def _reserve(ports: range) -> bool:
    folder = Path(tempfile.gettempdir()) / "pushsvc-test-ports"
    folder.mkdir(exist_ok=True)
    locks: list[int] = []
    try:
        for port in ports:
            locks.append(os.open(folder / str(port), os.O_CREAT | os.O_RDWR, 0o666))
            fcntl.flock(locks[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        for lock in locks:
            os.close(lock)
        return False
    _reserved.extend(locks)
    return True
