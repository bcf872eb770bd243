"""The values of metrics in files that several processes share, on a file system that may be full.

prometheus_client maps sparse files into memory: the first write to a page for which the file system has no room would
kill the process with SIGBUS. Here each page is written before it is mapped, and what finds no room stays in memory,
where the exposition of all processes does not see it, until there is room again.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Final

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from .states import StateLog

INITIAL: Final = 1 << 16
"""Bytes of a file at first; it is doubled as it fills."""
RETRY: Final = 10.0
"""Seconds until room is looked for again."""
FULL: Final = StateLog("metrics", "metrics_not_shared", "metrics_still_not_shared", "metrics_shared_again")
"""The state in which the file system of the metrics has no room."""


class SharedValues:
    """The values in one file, in place of prometheus_client's `MmapedDict`, whose format it has. Raises nothing for a
    full file system."""

    def __init__(self, filename: str) -> None:
        self._path = filename
        self._file: MmapedDict | None = None
        self._known: set[str] = set()
        """The keys that the file has."""
        self._kept: dict[str, tuple[float, float]] = {}
        """The values that it does not have, with their times."""
        self._used = self._size = 0
        self._look_at = 0.0

    def read_value(self, key: str) -> tuple[float, float]:
        """Return the value of a key and its time, and make it known in the file."""
        if key not in self._kept and (file := self._with_room(key)) is not None:
            value, timestamp = file.read_value(key)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
            return value, timestamp
        return self._kept.setdefault(key, (0.0, 0.0))

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Set the value of a key and its time."""
        if (file := self._with_room(key)) is not None:
            self._kept.pop(key, None)
            file.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]  # as above
        else:
            self._kept[key] = value, timestamp

    def close(self) -> None:
        if self._file is not None:
            self._file.close()  # type: ignore[no-untyped-call]  # as above

    def _with_room(self, key: str) -> MmapedDict | None:
        """Return the file if it has this key or room for it."""
        if key in self._known:
            return self._file
        now = time.monotonic()
        if now < self._look_at:
            return None
        try:
            file = self._opened()
            if key not in self._known:
                length = len(key.encode())
                size = length + 4 + (8 - (length + 4) % 8) + 16
                while self._used + size > self._size:
                    self._grow(2 * self._size)
                self._used += size
                self._known.add(key)
        except OSError as error:
            self._look_at = now + RETRY
            if structlog.is_configured():  # the first metrics are made before the log is
                FULL.begin(self._path, path=self._path, error=error.strerror or type(error).__name__)
            return None
        FULL.end(self._path)
        return file

    def _opened(self) -> MmapedDict:
        if self._file is None:
            self._grow(INITIAL)
            self._file = MmapedDict(self._path)  # type: ignore[no-untyped-call]  # as above
            self._known = {key for key, *_ in self._file.read_all_values()}  # type: ignore[no-untyped-call]  # as above
        return self._file

    def _grow(self, size: int) -> None:
        """Write zeros up to this size, unlike the sparse end that `truncate` gives a file."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            there = os.fstat(descriptor).st_size
            self._used = int.from_bytes(os.pread(descriptor, 4, 0), sys.byteorder) or 8
            while there < size:
                there += os.pwrite(descriptor, bytes(size - there), there)
            self._size = there
        except OSError:
            if self._file is None and not self._used > 8:  # an empty file cannot be read by others
                with suppress(OSError):
                    os.unlink(self._path)
            raise
        finally:
            os.close(descriptor)


def share_values() -> None:
    """Have prometheus_client store the values of metrics that are made from here on so. Without a shared folder it
    stores none in files."""
    values.MmapedDict = SharedValues  # type: ignore[attr-defined, assignment]  # it is looked up there
