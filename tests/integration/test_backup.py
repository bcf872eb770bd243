"""The page `guides/backup.md`, done: a restored backup has every push, device, dead letter, key and count."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushsvc.model.access import ApiKey
from pushsvc.model.delivery import Retry, Unavailable
from pushsvc.model.devices import ByTopic, Device
from pushsvc.ports.letters import DeadFilter
from pushsvc.store import open_store
from pushsvc.store.server.embedded import open_embedded

from ..pages import PAGES, blocks
from .servers import KINDS, Kind, ask, find_binary, running_server, skip_or_fail
from .test_store_kit import all_of, make_push, moment, settlement, take_all
from .test_store_replay import fail_all

DEVICES = [Device(id=f"d{n}", platform="apns", token=f"{n:064x}", user=f"u{n % 7}") for n in range(50)]
EMBEDDED, OWN, RESTORE = blocks("sh", PAGES["guides/backup.md"])


def script(text: str, data: Path, folder: Path, **environ: str) -> int:
    """Run a script of the page in `folder`, beside a server with its data in `data`, and return its exit code."""
    if shutil.which("redis-cli") is None:
        skip_or_fail("no redis-cli on PATH")
    cli = f"redis-cli -s {data / 'socket'}"
    changes = {
        "runuser -u redis -- ": "",
        "-o redis -g redis ": "",
        "/var/lib/redis": str(data),
        "redis-cli BGSAVE": f"{cli} BGSAVE",
        "redis-cli INFO": f"{cli} INFO",
    }
    for old, new in changes.items():
        text = text.replace(old, new)
    command = ["sh", "-c", text]
    return subprocess.run(command, cwd=folder, env={**os.environ, **environ}, check=False, timeout=60).returncode


async def fill(url: str) -> None:
    later = moment() + 60_000_000
    """Put something of every kind into a store."""
    async with open_store(url) as store:
        await store.keys.add(ApiKey("web", "shop", "a" * 64, ("push",), moment()))
        await store.registry.put_many("shop", DEVICES)
        for device in DEVICES[:20]:
            await store.registry.subscribe("shop", "news", device.id)
        await store.suppressions.add("shop", [("apns", "dead", later)])
        await fail_all(store, make_push("failed", 5))
        await store.pushes.accept(make_push("sent", 4))
        for taken in await take_all(store):
            await store.queue.settle("shop", *all_of(taken))
        await store.pushes.accept(make_push("retried", 3))
        again, away = Retry(later, 2), Unavailable(status=503)
        for taken in await take_all(store):
            results = [settlement(taken.chunk, target.index, again, away) for target in taken.chunk.targets]
            await store.queue.settle("shop", results, [taken.ref])
        await store.pushes.accept(make_push("scheduled", 6, send_at=later))
        await store.pushes.accept(make_push("queued", 1000))


async def seen(url: str) -> dict[str, Any]:
    """Return what a store shows, by the calls of the service."""
    async with open_store(url) as store:
        figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
        pushes = [("shop", name) for name in ("failed", "sent", "retried", "scheduled", "queued")]
        return {
            "figures": msgspec.structs.replace(figures, oldest={}),  # the only one that grows with time
            "statuses": await store.pushes.statuses(pushes),
            "keys": await store.keys.all(),
            "devices": (await store.registry.scan("shop", after="", limit=100)).devices,
            "topic": await store.registry.members("shop", ByTopic(topic="news"), after="", limit=100),
            "users": [device.id for device in await store.registry.of_user("shop", "u3")],
            "letters": await store.dead.page("shop", DeadFilter(), cursor="", limit=100),
            "dead": await store.suppressions.known("shop", [("apns", "dead")]),
        }


async def sent(url: str) -> int:
    """Send what is queued, as a dispatcher does, and return how many deliveries that were."""
    async with open_store(url) as store:
        entries = await take_all(store)
        for taken in entries:
            await store.queue.settle("shop", *all_of(taken))
        status = await store.pushes.status("shop", "queued")
        assert status is not None
        assert (status.counts.queued, status.counts.sent) == (0, 1000)
        return sum(len(taken.chunk.targets) for taken in entries)


def check(before: dict[str, Any], url: str) -> None:
    """See that a restored store shows the same as the first, and goes on from there."""
    figures = before["figures"]
    assert (figures.total_pending, figures.scheduled, figures.dead_letters) == (1003, 6, 5)
    assert asyncio.run(seen(url)) == before
    assert asyncio.run(sent(url)) == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_is_restored_into_another_server(kind: Kind, tmp_path: Path) -> None:
    append = ("--appendonly", "yes", "--appendfsync", "always")
    with running_server(kind, options=append) as server:
        asyncio.run(fill(server.url))
        before = asyncio.run(seen(server.url))
        server.command("CONFIG SET requirepass secret")
        assert script(OWN, server.folder, tmp_path) != 0, "a server that refuses is not waited for"
        assert not list(tmp_path.glob("*.rdb"))
        assert script(OWN, server.folder, tmp_path, REDISCLI_AUTH="secret") == 0
    (backup,) = tmp_path.glob("backup-*.rdb")
    folder = Path(tempfile.mkdtemp(prefix="ps-"))  # a socket's path has at most 107 bytes
    try:
        with running_server(kind, options=append, folder=folder) as server:
            server.command("SET other 1")
        restore = RESTORE.replace("/root/backup-2026-12-01.rdb", str(backup))
        restore = restore.replace("redis-server --port", f"{find_binary(kind)} --port")
        assert script(restore, folder, folder) == 0
        assert (folder / "before" / "appendonlydir").is_dir()
        with running_server(kind, options=append, folder=folder) as server:
            check(before, server.url)
    finally:
        shutil.rmtree(folder)


def test_the_folder_of_the_embedded_store_is_copied_while_it_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    socket = first / "store.sock"
    with open_embedded(first, fsync="always") as url:
        asyncio.run(fill(url))
        before = asyncio.run(seen(url))
        for command in ("CONFIG SET auto-aof-rewrite-percentage 0", "CONFIG SET auto-aof-rewrite-percentage 100"):
            assert command in EMBEDDED
            assert ask(socket, command).startswith(b"+OK")
            if command.endswith(" 0"):
                shutil.copytree(first / "appendonlydir", second / "appendonlydir")
    with open_embedded(second) as url:
        check(before, url)
