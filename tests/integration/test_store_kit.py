"""What the store's tests share: worlds (a backend each) in which the same test can run, and short factories."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from typing import Any, Literal, TypeAlias

import msgspec

from pushsvc.model.delivery import Delivery, Ended, Outcome, Sent, Settlement, Verdict
from pushsvc.model.push import (
    LANES,
    Chunk,
    Lane,
    Message,
    Platform,
    Push,
    Route,
    Target,
)
from pushsvc.model.status import PushStatus
from pushsvc.ports.entries import EntryRef, Taken
from pushsvc.ports.erasure import Erasures
from pushsvc.runtime.providers import addresses
from pushsvc.stages.erase import Eraser
from pushsvc.store import Store, StoreConfig, keys, open_store, token_hash

from ..fakes import MemoryStore
from .servers import Kind, Server, running_server

Backend: TypeAlias = Literal["memory", "valkey", "redis"]
BACKENDS: tuple[Backend, ...] = ("memory", "valkey", "redis")
AnyStore: TypeAlias = Store | MemoryStore
ROUTE = Route("shop", "apns")
SENT = Sent(status=200, provider_id="8a1b6f2c-0d5e-5a37-9c7e-1a2b3c4d5e6f")


@cache
def moment() -> int:
    """Return the instant of the running test in Unix ms, which is that of its first call. Each test has its own: what
    was read once would be compared with a clock that goes on while hundreds of others run."""
    return int(time.time() * 1000)


class World:
    """One backend. `store` opens a consumer's view of it, `kill` lets a consumer show no sign of life."""

    def __init__(self, server: Server | None, config: StoreConfig) -> None:
        self._server = server
        self._config = config
        self._memory = None if server else MemoryStore(config)
        self._stack = AsyncExitStack()
        self._killer: Store | None = None

    @property
    def real(self) -> bool:
        """Whether there is a server, and not the twin in memory."""
        return self._server is not None

    async def store(self, consumer: str = "a") -> AnyStore:
        if self._memory is not None:
            return self._memory.as_consumer(consumer)
        assert self._server is not None
        config = msgspec.structs.replace(self._config, consumer=consumer)
        store = await self._stack.enter_async_context(open_store(self._server.url, config))
        self._killer = self._killer or store
        return store

    async def kill(self, consumer: str) -> None:
        if self._memory is not None:
            self._memory.kill(consumer)
        else:
            assert self._killer is not None
            await self._killer.link.call("DEL", f"ps:alive:{consumer}")

    async def aclose(self) -> None:
        await self._stack.aclose()


def names_of_keys() -> set[str]:
    """Return the keys of the table in keys.py."""
    rows = re.findall(r"^\| (`ps:[^|]+`) +\| \w+ +\|", keys.__doc__ or "", re.MULTILINE)
    return {name for row in rows for name in re.findall("`([^`]+)`", row)}


def eraser(store: Store) -> Erasures:
    """What erases users from this store."""
    return Eraser(store.registry, store.erasures, store.locks)


@contextmanager
def backend_server(backend: Backend) -> Iterator[Server | None]:
    """The server of a backend, or None for the one that needs none."""
    if backend == "memory":
        yield None
        return
    kind: Kind = backend
    with running_server(kind) as server:
        yield server


@asynccontextmanager
async def new_world(server: Server | None, config: StoreConfig | None = None) -> AsyncIterator[World]:
    """A world that is empty at its beginning."""
    if server is not None:
        server.flush()
    world = World(server, msgspec.structs.replace(config or StoreConfig(), addresses=addresses()))
    try:
        async with asyncio.timeout(60):
            yield world
    finally:
        await world.aclose()


@asynccontextmanager
async def new_store(server: Server, config: StoreConfig | None = None, **more: Any) -> AsyncIterator[Store]:
    """A store that is empty at its beginning."""
    server.flush()
    async with asyncio.timeout(120), open_store(server.url, config or StoreConfig(consumer="a"), **more) as store:
        yield store


async def entries_of(store: AnyStore, route: Route = ROUTE) -> int:
    """How many entries are in the lanes of a route, with those that are being sent."""
    if isinstance(store, MemoryStore):
        return sum(len(store.lane(route, lane).entries) for lane in LANES)
    shards = range(store.config.shards_of(route.app))
    lengths = [("XLEN", keys.lane(route.app, shard, route.platform, lane)) for shard in shards for lane in LANES]
    return sum(await store.link.many(lengths))


# --- makers ---------------------------------------------------------------------------------------


def make_push(
    push_id: str,
    targets: int = 1,
    *,
    lane: Lane = "normal",
    app: str = "shop",
    platforms: Sequence[Platform] = ("apns",),
    created_at: int | None = None,
    send_at: int | None = None,
) -> Push:
    """A push of `targets` targets at each platform; the token of index 3 of push `p` is `p-3`."""
    message = b'{"aps":{"alert":"hello"}}'
    created_at = moment() if created_at is None else created_at
    return Push(
        id=push_id,
        app=app,
        lane=lane,
        created_at=created_at,
        expires_at=(created_at if send_at is None else send_at) + 3_600_000,
        messages={platform: Message(platform, message, {"apns-priority": "10"}) for platform in platforms},
        targets={
            platform: tuple(
                Target(index, f"{push_id}-{index}") for index in range(place * targets, (place + 1) * targets)
            )
            for place, platform in enumerate(platforms)
        },
        send_at=send_at,
    )


def settlement(
    chunk: Chunk,
    index: int,
    verdict: Verdict | None = None,
    outcome: Outcome | None = SENT,
    *,
    at: int | None = None,
    reason: str = "",
) -> Settlement:
    """Return a settlement of the target with that index; sent by default."""
    target = next(target for target in chunk.targets if target.index == index)
    return Settlement(
        Delivery(chunk, target),
        outcome,
        verdict or Ended("sent"),
        moment() + 5 if at is None else at,
        token_hash(bytes(32), target.token),
        reason,
    )


def all_of(
    taken: Taken, verdict: Verdict | None = None, outcome: Outcome | None = SENT
) -> tuple[list[Settlement], list[EntryRef]]:
    """Settle every target of an entry, and finish the entry. Targets to skip are settled by their `skip`."""
    settlements = [
        settlement(taken.chunk, target.index, Ended(taken.skip[target.index]), None)
        if target.index in taken.skip
        else settlement(taken.chunk, target.index, verdict, outcome)
        for target in taken.chunk.targets
    ]
    return settlements, [taken.ref]


async def accept_together(store: AnyStore, *pushes: Push) -> None:
    """Accept pushes in one write."""
    await asyncio.gather(*map(store.pushes.accept, pushes))


async def take(
    store: AnyStore, lane: Lane = "normal", *, targets: int = 10_000, wait_ms: int = 0, route: Route = ROUTE
) -> list[Taken]:
    return await store.queue.take(route, lane, targets=targets, wait_ms=wait_ms)


async def take_all(store: AnyStore, lane: Lane = "normal", route: Route = ROUTE) -> list[Taken]:
    """Until nothing comes any more."""
    found: list[Taken] = []
    while more := await take(store, lane, route=route):
        found += more
    return found


def counts(status: PushStatus | None) -> dict[str, int]:
    """Return the counts that are not 0, after seeing that their sum is the total."""
    assert status is not None
    found = msgspec.structs.asdict(status.counts)
    assert found.pop("total") == sum(found.values())
    return {name: count for name, count in found.items() if count}
