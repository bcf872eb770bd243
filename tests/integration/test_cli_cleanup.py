"""`pushsvc cleanup` as cron runs it, and the same by `pushsvc jobs`: two at once, killed half-way, in slices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.jobs import FUNCTIONS, Context, functions
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.reload import Current
from pushsvc.stages.cleanup import LOCK
from pushsvc.store import Store

from .cleanup_rig import (
    CONFIG,
    Removed,
    make_aged,
    make_bystanders,
    make_devices,
    make_orphans,
    make_statuses,
)
from .processes import PROGRAM, SAME_PRIORITY, Command, Processes, own_processes
from .registry_audit import audit
from .servers import Server, running_server
from .terminal import at_terminal
from .test_jobs import CONFIG as FILE, until, worker
from .test_store_kit import new_store


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # One kind: what the store does is tried over both elsewhere, and each command takes a second to start.
    with running_server("redis") as found:
        yield found


@pytest.fixture
def processes(tmp_path: Path, server: Server) -> Iterator[Processes]:
    (tmp_path / "pushsvc.toml").write_text(FILE.format(url=server.url, folder=tmp_path))
    with own_processes(tmp_path) as own:
        own.program = SAME_PRIORITY
        yield own


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    async with new_store(server, CONFIG) as store:
        yield store


async def make_all(store: Store, times: int = 1) -> Removed:
    expected: Removed = Counter()
    for make in (make_orphans, make_aged, make_statuses):
        expected += await make(store)
    expected += await make_devices(store, times=times)
    await make_bystanders(store)
    return expected


async def run(processes: Processes, *words: str, **environ: str) -> tuple[int, Any]:
    """`pushsvc cleanup --json`: exit code and document."""
    command = start(processes, *words, "--json", **environ)
    code = await asyncio.to_thread(command.wait)
    return code, json.loads(command.out.read_text())


def start(processes: Processes, *words: str, **environ: str) -> Command:
    return processes.start("cleanup", *words, PUSHSVC_CONFIG=str(processes.folder / "pushsvc.toml"), **environ)


def of_shop(reported: Any) -> Removed:
    return Counter({("shop", what): count for what, count in reported["apps"]["shop"].items()})


async def test_the_command_removes_what_its_dry_run_counts(processes: Processes, store: Store) -> None:
    expected = await make_all(store)
    for words in (("--dry-run",), ()):
        code, reported = await run(processes, *words)
        assert (code, reported["state"], reported["dry_run"]) == (0, "done", bool(words))
        assert of_shop(reported) == expected
        assert reported["total"] == expected.total()
    await audit(store)
    record = await store.cleanups.record()
    assert (record.place, record.removed, record.total) == (None, expected, expected)
    assert record.ended_at > 0
    command = start(processes)
    assert await asyncio.to_thread(command.wait) == 0
    assert command.out.read_text().startswith("0 records removed in ")
    assert (await store.cleanups.record()).removed == {}
    assert (await store.cleanups.record()).total == expected


async def test_two_at_once_and_one_killed_half_way(processes: Processes, store: Store) -> None:

    async def free(store: Store) -> bool:
        return await store.locks.holder(LOCK) is None

    expected = await make_all(store, times=100)
    # Most of 27 steps are left when the others start, each with a rest of 99 times its length. A process that steps
    # back needs a longer lease on a busy machine.
    processes.program = PROGRAM
    first = start(processes, "--json", "--share", "0.01", PUSHSVC__JOBS__TAKEOVER="5")
    processes.program = SAME_PRIORITY

    async def half_way() -> bool:
        return (await store.cleanups.record()).total.get(("shop", "stale"), 0) > 0

    await until(half_way)
    assert os.getpriority(os.PRIO_PROCESS, first.pid) >= 10
    text = start(processes)
    code, reported = await run(processes)
    assert (code, reported["state"]) == (0, "elsewhere")
    assert str(first.pid) in reported["holder"]
    assert await asyncio.to_thread(text.wait) == 0
    assert f"another cleanup is running, in process {first.pid} on " in text.out.read_text()

    first.process.send_signal(signal.SIGKILL)
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    code, left = await run(processes, "--dry-run")
    assert 0 < left["total"] < expected.total()
    await until(lambda: free(store))  # the lease of the one that was killed is over
    code, reported = await run(processes)
    assert (code, reported["apps"]) == (0, left["apps"])
    kept = Counter(each.id.partition("-")[0] for each in (await audit(store)).values())
    assert kept == {"good": 4000, "stale": 500, "suspect": 400, "young": 200, "witness": 1}
    code, reported = await run(processes, "--dry-run")
    assert reported["total"] == 0
    # What was removed in the step in which it was killed is not in the sum; nothing is in it twice.
    total = Counter((await store.cleanups.record()).total)
    assert total <= expected
    assert total.total() >= expected.total() - 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_between_two_steps_and_frees_the_lock(
    processes: Processes, number: signal.Signals, store: Store
) -> None:

    async def held(store: Store) -> bool:
        return await store.locks.holder(LOCK) is not None

    await make_all(store, times=30)
    command = start(processes, "--share", "0.01")
    await until(lambda: held(store))
    assert await asyncio.to_thread(command.end, number) == 130
    assert await store.locks.holder(LOCK) is None
    assert "interrupted" in command.err.read_text()
    assert await store.link.call("HGET", "ps:cleanup", "ended") is None


async def test_at_a_terminal_it_shows_bars(processes: Processes, store: Store) -> None:
    await make_all(store)
    environ = processes.environ(PUSHSVC_CONFIG=str(processes.folder / "pushsvc.toml"))
    with at_terminal("cleanup", cwd=processes.folder, environ=environ, program=SAME_PRIORITY) as terminal:
        await asyncio.to_thread(terminal.until, "shop indexes")
        await asyncio.to_thread(terminal.until, "removed in")
        assert await asyncio.to_thread(terminal.wait) == 0
    assert "tombstones" in terminal.shown


# --- by `pushsvc jobs` ------------------------------------------------------------------------------


async def ended(store: Store) -> bool:
    record = await store.cleanups.record()
    return record.ended_at > 0 and record.place is None


async def test_jobs_clean_up_by_themselves(server: Server, tmp_path: Path, store: Store) -> None:
    expected = await make_all(store)
    with worker(server, tmp_path, PUSHSVC__CLEANUP__SHARE="1.0"):
        await until(lambda: ended(store))
    record = await store.cleanups.record()
    assert record.removed == record.total == expected
    # The day is not over: neither another process nor this one after a restart does it again.
    await store.cleanups.request(every=86400.0)
    assert (await store.cleanups.record()).place is None
    await audit(store)


async def test_with_0_they_do_not(server: Server, tmp_path: Path, store: Store) -> None:

    async def others_ran(store: Store) -> bool:
        return bool(await store.link.call("EXISTS", "ps:lock:sweep"))

    await make_all(store)
    with worker(server, tmp_path, PUSHSVC__CLEANUP__EVERY="0"):
        await until(lambda: others_ran(store))
    assert (await store.cleanups.record()).began_at == 0


async def test_a_killed_job_is_taken_up_where_it_was(server: Server, tmp_path: Path, store: Store) -> None:
    expected = await make_all(store, times=100)

    async def half_way() -> bool:
        return (await store.cleanups.record()).removed.get(("shop", "stale"), 0) > 0

    with worker(server, tmp_path, PUSHSVC__CLEANUP__SHARE="0.02") as first:
        await until(half_way)
        first.send_signal(signal.SIGKILL)
        await asyncio.to_thread(first.wait)
    record = await store.cleanups.record()
    assert record.place is not None
    assert record.place.startswith("shop devices\n")
    with worker(server, tmp_path, PUSHSVC__CLEANUP__SHARE="1.0"):
        await until(lambda: ended(store))
    removed = Counter((await store.cleanups.record()).removed)
    assert removed <= expected
    assert removed.total() >= expected.total() - 500
    await audit(store)


async def test_slice_by_slice_it_is_one_cleanup(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:

    monkeypatch.setattr(functions, "SLICE", 0.0)

    expected = await make_all(store, times=10)
    (tmp_path / "pushsvc.toml").write_text(FILE.format(url=server.url, folder=tmp_path))
    settings = load_settings(tmp_path / "pushsvc.toml", {"PUSHSVC__CLEANUP__SHARE": "1.0"})
    context = Context(Current(settings), server.url, waiting=lambda: True)
    assert await FUNCTIONS["cleanup"](context) == {}  # nobody has asked for one
    await store.cleanups.request()
    await store.locks.hold(LOCK, "another", lease=30.0)
    assert await FUNCTIONS["cleanup"](context) == {}
    await store.locks.release(LOCK, "another")
    slices: Counter[str] = Counter()
    places = []
    while not await ended(store):
        slices.update(await FUNCTIONS["cleanup"](context))
        places.append((await store.cleanups.record()).place)
    assert len(set(places)) == len(places) > 5
    assert slices == {f"{app} {what}": count for (app, what), count in expected.items()}
    assert (await store.cleanups.record()).removed == expected
