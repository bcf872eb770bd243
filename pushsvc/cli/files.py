"""The files that commands write and read: the only place that knows what is no regular file.

    regular, or not there yet   written beside itself and put in place when it is whole; a link stays a link
    a FIFO, a device            written straight into: it can be neither replaced nor taken back

What is written holds device tokens or keys, so only its owner may read it. A command that is broken off, by
Ctrl-C, SIGTERM or SIGHUP, leaves no unfinished file. Each fault is a `FileFailed` that names the file.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import PushsvcError

_HELD = "held"
"""The file with the lock of those that share a folder."""


class FileFailed(PushsvcError):
    """A file cannot be read or written. The text names the file and the reason."""


class _Raw(io.FileIO):
    """An open file whose errors name it."""

    def __init__(self, number: int, shown: str) -> None:
        super().__init__(number, "wb")
        self._shown = shown

    def write(self, data: object, /) -> int:
        try:
            return super().write(data) or 0  # type: ignore[arg-type]  # a buffer, by the protocol of RawIOBase
        except OSError as error:
            raise _failed(self._shown, "written", error) from None


def _failed(path: Path | str, done: str, error: OSError) -> FileFailed:
    why = error.strerror or error
    if isinstance(error, FileNotFoundError) and not (folder := Path(path).parent).exists():
        why = f"there is no folder {folder}"
    return FileFailed(f"{path} cannot be {done}: {why}")


def is_regular(path: Path) -> bool:
    """Return whether `path` is a regular file, a link to one, or does not exist. Raises `FileFailed`."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise _failed(path, "looked at", error) from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` as a whole once the block has ended without an error. Raises `FileFailed`."""
    if not is_regular(path):
        with open_private(path) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    try:
        number, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)  # mode 600
    except OSError as error:
        raise _failed(path, "written", error) from None
    part = Path(name)
    try:
        with io.BufferedWriter(_Raw(number, str(path))) as stream:
            yield stream
        try:
            part.replace(target)
        except OSError as error:
            raise _failed(path, "written", error) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def open_private(path: Path, *, keep: int | None = None) -> BinaryIO:
    """Open a file for writing that only its owner can read. Keeps the first `keep` bytes of its content, by default
    none.

    A file that is not regular keeps its mode and is not truncated. Raises `FileFailed`.
    """
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        if stat.S_ISREG(os.fstat(number).st_mode):
            os.fchmod(number, 0o600)  # also where it was there before
            os.truncate(number, keep or 0)
            os.lseek(number, 0, os.SEEK_END)
    except OSError as error:
        raise _failed(path, "written", error) from None
    return io.BufferedWriter(_Raw(number, str(path)))


def write_whole(path: Path, content: bytes) -> None:
    """Write `path` as a whole. Raises FileFailed."""
    with replacing(path) as stream:
        stream.write(content)


def create_whole(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read. Raises `FileFailed`, also where there is something already."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise _failed(path, "written", error) from None
    try:
        with io.BufferedWriter(_Raw(number, str(path))) as stream:
            stream.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def reading(name: str) -> Iterator[BinaryIO]:
    """Open a file for reading, or standard input for `-`.

    Raises `FileFailed`, also for read errors within the block.
    """
    shown = "standard input" if name == "-" else name
    try:
        if name == "-":
            yield sys.stdin.buffer
        else:
            with Path(name).open("rb") as stream:
                yield stream
    except OSError as error:
        raise _failed(shown, "read", error) from None


@contextmanager
def temporary_folder(prefix: str, otherwise: Path) -> Iterator[Path]:
    """Create a temporary folder for the block, in the system's folder for such files or else in `otherwise`.

    Raises `FileFailed`.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError:  # a container of which only the data folder can be written
        try:
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=otherwise)
        except OSError as error:
            raise _failed(otherwise, "written", error) from None
    with folder as name:
        yield Path(name)


@contextmanager
def shared_folder(prefix: str, otherwise: Path) -> Iterator[tuple[Path, int]]:
    """Create a temporary folder for files of this process and of those that it passes the descriptor to.

    Where all of them were killed, the next call with this prefix removes the folder: the descriptor has a lock, which
    the system keeps for as long as one of them lives. Raises `FileFailed`.
    """
    with temporary_folder(prefix, otherwise) as folder:
        for held in folder.parent.glob(f"{prefix}*/{_HELD}"):
            _remove_unheld(held)
        unheld = folder / f"not-{_HELD}"
        descriptor = os.open(unheld, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with suppress(OSError):  # a file system without locks: the folder is never taken for one that was left
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unheld.rename(folder / _HELD)  # under this name it was never without the lock
            yield folder, descriptor
        finally:
            os.close(descriptor)


def _remove_unheld(held: Path) -> None:
    with suppress(OSError):  # a process has the lock, or it is another user's
        descriptor = os.open(held, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(held.parent)
        finally:
            os.close(descriptor)
