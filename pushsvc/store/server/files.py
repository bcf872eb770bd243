"""The files of an embedded store in its folder: its two locks, who may read them, and where its socket is.

What the locks are for: see embedded.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import ConfigError, StoreOwned

OWNER, _SERVER, PID, SOCKET, LOG = "store.lock", "server.lock", "server.pid", "store.sock", "store.log"
_LONGEST = 100
"""The maximum length of a socket's path on every system, in bytes; Linux allows 107, macOS 103."""
_OURS = frozenset({OWNER, _SERVER, PID, SOCKET, LOG, "appendonlydir", "playground"})
"""The names in a data folder that is used for nothing else."""

_owned: set[int] = set()


def _forget_after_fork() -> None:
    for descriptor in _owned:
        with suppress(OSError):
            os.close(descriptor)
    _owned.clear()


os.register_at_fork(after_in_child=_forget_after_fork)


# --- locks ----------------------------------------------------------------------------------------


@contextmanager
def lock_store(folder: Path) -> Iterator[None]:
    """Own the store while the block lasts. Raises `StoreOwned` while another process does."""
    lock = folder / OWNER
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StoreOwned(
                f"the store in {folder} belongs to the running process {pid}: stop that one, "
                "or give this one another folder (store.data_dir) or a Redis of its own (redis.url)"
            ) from None
        _owned.add(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        _owned.discard(descriptor)
        os.close(descriptor)


def lock_server(folder: Path) -> int | None:
    """Take the server's lock as an open file, or return None while a server has it."""
    descriptor = os.open(folder / _SERVER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


# --- privacy --------------------------------------------------------------------------------------


def make_private(folder: Path) -> None:
    """Remove the permissions of others from the store's files, and from the folder where it contains nothing else. A
    folder with other contents keeps its mode: it may be a home folder, and the store's files in it are closed anyway.
    Files of another user stay as they are; those that cannot be used fail where they are used."""
    for name in (OWNER, _SERVER, PID, LOG):
        close_to_others(folder / name, 0o600)
    log = folder / "appendonlydir"
    close_to_others(log, 0o700)
    for file in log.glob("*"):
        close_to_others(file, 0o600)
    if all(entry.name in _OURS for entry in folder.iterdir()):
        close_to_others(folder, 0o700)


def open_private(path: str, flags: int) -> int:
    """Open a file that only this user may read, as the `opener` of `open`."""
    return os.open(path, flags, 0o600)


def close_to_others(path: Path, mode: int) -> None:
    """Give a file or folder this mode if others may use it."""
    with suppress(FileNotFoundError, PermissionError):
        if path.stat().st_mode & 0o077 and not path.is_symlink():
            path.chmod(mode)


# --- the socket -----------------------------------------------------------------------------------


def place_socket(folder: Path) -> Path:
    """Return the path of the socket. A path that is too long for one is replaced by a short one that the folder links
    to."""
    plain = folder / SOCKET
    if len(os.fsencode(plain)) <= _LONGEST:
        return plain
    try:
        if linked := plain.is_symlink():
            short = Path(os.readlink(plain)).parent
        else:
            # The temporary folder itself may have the long path.
            base = tempfile.gettempdir() if len(os.fsencode(tempfile.gettempdir())) < _LONGEST - 50 else "/tmp"  # noqa: S108  # a folder of our own in it, 0700
            short = Path(base) / f"pushsvc-{os.getuid()}"
        short.mkdir(mode=0o700, exist_ok=True)  # what tidies the temporary folder may have removed it
    except OSError as error:
        raise ConfigError(
            "store.data_dir",
            f"{folder} is too long a path for a socket, and no temporary folder can be used: {error.strerror}",
            "name a folder with a shorter path",
        ) from None
    if short.is_symlink() or short.stat().st_uid != os.getuid():
        raise ConfigError("store.data_dir", f"{short} is not ours", "name a folder with a shorter path")
    if linked:
        return Path(os.readlink(plain))
    path = short / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}.sock"
    plain.unlink(missing_ok=True)
    plain.symlink_to(path)
    return path
