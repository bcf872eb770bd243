"""A push to one device is settled in fewer commands than others, and what is written is the same.

hypothesis lets the same steps of pushes happen in two databases. In one of them `settle.lua` has no way of its own for
such pushes. After each step both must contain the same, but for the ids that Redis gives to entries.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from hashlib import sha1
from typing import Any, NamedTuple, TypeAlias

import pytest
from hypothesis import example, given, settings, strategies as st
from msgspec.structs import replace
from redis import Redis

from pushsvc.errors import Conflict
from pushsvc.model.delivery import (
    Arrival,
    BadNotification,
    Ended,
    Outcome,
    Retry,
    TokenDead,
    Unconfirmed,
    Verdict,
)
from pushsvc.model.push import LANES, Chunk, Lane, Message, Push, Route, Target
from pushsvc.model.routing import path_name
from pushsvc.ports.entries import Taken
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.runtime.providers import addresses
from pushsvc.store import Store, StoreConfig, open_store
from pushsvc.store.link import scripts

from .servers import Server
from .test_store_kit import SENT, backend_server, settlement, take

START = 1_900_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
CONSUMERS = ("a", "b")
ROUTES = (Route("shop", "live"), Route("shop", "apns"))
PATHS = (path_name("apns", ("live", "apns")), path_name("apns", ("live",)), "live", "apns")
WRITTEN = Unconfirmed(reason="written", within=10.0)

Hand: TypeAlias = tuple[Taken, ...]
"""The same entry in either database."""
Says: TypeAlias = Callable[[Chunk, int], tuple[Verdict, Outcome | None]]

SAYINGS: tuple[Says, ...] = (
    lambda chunk, now: (Retry(now + 10_000, 1, counted=False, channel="apns"), WRITTEN),
    lambda chunk, now: (Retry(chunk.expires_at, 1), WRITTEN),
    lambda chunk, now: (Retry(now + 10_000, 1, counted=False, channel="apns"), WRITTEN),
    lambda chunk, now: (Retry(now, 1, counted=False, channel="apns"), Unconfirmed(reason="absent")),
    lambda chunk, now: (Retry(now + 20_000, 2), None),
    lambda chunk, now: (Ended("sent"), SENT),
    lambda chunk, now: (Ended("failed", dead_letter=True), BadNotification(status=400)),
    lambda chunk, now: (Ended("invalid"), TokenDead(status=410, reason="Unregistered")),
    lambda chunk, now: (Ended("expired"), None),
    lambda chunk, now: (Retry(now + 10_000, 1, channel="apns"), TokenDead(status=410, reason="Unregistered")),
)


class Step(NamedTuple):
    what: str
    which: int
    """Of what there is: a push, an entry, a consumer."""
    how: int
    several: tuple[tuple[int, int], ...]


WHAT = (
    *("accept", "take", "take", "settle", "settle", "settle", "settle", "arrive", "promote", "cancel", "cancel"),
    *("replay", "reclaim", "suppress", "fall_back", "forget_status", "forget_group", "later"),
)
"""Names of methods of `Twins`: what comes more often is here more often."""
STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(WHAT),
        st.integers(0, 63),
        st.integers(0, 63),
        st.lists(st.tuples(st.integers(0, 15), st.integers(0, 63)), min_size=1, max_size=4).map(tuple),
    ),
    min_size=5,
    max_size=16,
)
BEGIN = (Step("accept", 0, 0, ((0, 1), (1, 1), (4, 0))), Step("take", 0, 0, ((0, 0),)))


def general() -> scripts.Script:
    """`settle.lua` that looks at each delivery closely."""
    text = scripts.load("settle").text
    text, held = re.subn(r"\nlocal more = hold_singles\(groups\)\n", "\nlocal more = groups\n", text)
    text, ended = re.subn(r"turn <= 1 and end_singles\([^)]*\) or list\n", "list\n", text)
    assert (held, ended) == (1, 1)
    return scripts.Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def use(store: Store, settle: scripts.Script) -> None:
    """Let this store settle by another script."""
    known = store.link._prepared
    store.link._prepared = lambda name, keys: (settle, keys) if name == "settle" else known(name, keys)  # type: ignore[method-assign]


READS: dict[bytes, tuple[Any, ...]] = {
    b"stream": ("XRANGE", "-", "+"),
    b"hash": ("HGETALL",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"set": ("SMEMBERS",),
    b"string": ("GET",),
}


def contents(client: Any) -> dict[bytes, Any]:
    """Return what is stored of apps in a database, with entries by their places."""
    names = sorted(client.keys("ps:{*"))
    with client.pipeline(transaction=False) as several:
        for name in names:
            several.type(name)
        kinds = several.execute()
        for name, kind in zip(names, kinds, strict=True):
            word, *more = READS[kind]
            several.execute_command(word, name, *more)
            several.pttl(name)
        answers = several.execute()
    found: dict[bytes, Any] = {}
    for name, kind, value, life in zip(names, kinds, answers[::2], answers[1::2], strict=True):
        if kind == b"stream":
            value = [fields for _, fields in value], _pending(client, name, [entry_id for entry_id, _ in value])
        elif kind == b"hash":
            value.pop(b"cx", None)  # the id of an entry
        elif name.endswith(b":epoch"):
            value = bool(value)  # the id of an entry
        found[name] = value, life if life < 0 else round(life / DAY)  # a `kept` status has up to a day more
    return found


def _pending(client: Any, name: bytes, entries: list[bytes]) -> dict[bytes, list[tuple[int, bytes]]]:
    """Return by group what is pending: the place of the entry, -1 of one that is deleted, and its consumer."""
    places = {entry_id: place for place, entry_id in enumerate(entries)}
    found = {}
    for group in client.xinfo_groups(name):
        held = client.xpending_range(name, group["name"], "-", "+", 1000)
        found[group["name"]] = [(places.get(each["message_id"], -1), each["consumer"]) for each in held]
    return found


class Twins:
    """The same two consumers in two databases."""

    def __init__(self, clients: Sequence[Redis]) -> None:
        self.clients = clients
        self.stores: tuple[dict[str, Store], ...] = ({}, {})
        self.now = START
        self.pushes: list[Push] = []
        self.hands: list[Hand] = []
        self.seen: list[Arrival] = []

    async def both(self, name: str, call: Callable[[Store, int], Awaitable[Any]]) -> list[Any]:
        """Do the same in both databases."""
        return [await call(stores[name], place) for place, stores in enumerate(self.stores)]

    async def step(self, step: Step) -> None:
        name = CONSUMERS[step.which % 2]
        one, other = await getattr(self, step.what)(name, step)
        assert one == other, (step, one, other)
        first, second = map(contents, self.clients)
        changed = [(name, first.get(name), second.get(name)) for name in sorted({*first, *second})]
        changed = [each for each in changed if each[1] != each[2]]
        assert not changed, (step, changed)

    async def accept(self, name: str, step: Step) -> list[Any]:
        lane = LANES[step.how % len(LANES)]
        pushes = [self._push(lane, which, how) for which, how in step.several]
        self.pushes += pushes
        await self.both(name, lambda store, _: asyncio.gather(*map(store.pushes.accept, pushes)))
        return [None, None]

    def _push(self, lane: Lane, which: int, how: int) -> Push:
        number = len(self.pushes) * 100 + which * 64 + how
        total = 2 if which == 15 else 1
        targets = tuple(Target(index, f"{number:060x}{index:04x}", f"device-{index}") for index in range(total))
        return Push(
            id=f"p{len(self.pushes)}-{number}",
            app="shop",
            lane=lane,
            created_at=self.now,
            expires_at=self.now + (2 * DAY if how % 3 == 0 else HOUR),
            messages={"live": Message("live", b"{}"), "apns": Message("apns", b'{"aps":{}}')},
            targets={PATHS[which % len(PATHS)]: targets},
        )

    async def take(self, name: str, step: Step) -> list[Any]:
        route = ROUTES[step.how % 2]
        found: list[list[Taken]] = [[], []]
        for lane in LANES:
            own = [await take(stores[name], lane, route=route) for stores in self.stores]
            found = [one + two for one, two in zip(found, own, strict=True)]
        return self._keep(found)

    async def reclaim(self, name: str, step: Step) -> list[Any]:
        other = CONSUMERS[(step.which + 1) % 2]
        await self.both("a", lambda store, _: store.link.call("DEL", f"ps:alive:{other}"))
        return self._keep(await self.both(name, lambda store, _: store.queue.reclaim(ROUTES[step.how % 2])))

    def _keep(self, found: Sequence[Sequence[Taken]]) -> list[Any]:
        self.hands += zip(*found, strict=True)
        for each in found[0]:
            chunk = each.chunk
            facts = chunk.total, chunk.lane, chunk.platform
            for target in chunk.targets:
                self.seen.append(Arrival(chunk.push_id, target.index, *facts, target.device_id, self.now))
        return [[(each.chunk, each.skip) for each in own] for own in found]

    async def settle(self, name: str, step: Step) -> list[Any]:
        if not self.hands:
            return [None, None]
        chosen = [(self.hands[-1 - which % len(self.hands)], how) for which, how in step.several]

        async def settle(store: Store, place: int) -> Any:
            settlements = []
            for hand, how in chosen:
                taken = hand[place]
                for target in taken.chunk.targets:
                    verdict, outcome = SAYINGS[how % len(SAYINGS)](taken.chunk, self.now)
                    entry = taken.ref.entry_id if how < 48 else ""
                    each = settlement(taken.chunk, target.index, verdict, outcome, at=self.now)
                    settlements.append(replace(each, entry_id=entry))
            refs = [hand[place].ref for hand, how in chosen if how % 4]
            took = await store.queue.settle("shop", settlements, refs)
            return [each in took for each in settlements]

        return await self.both(name, settle)

    def _some(self, step: Step) -> list[Arrival]:
        return [self.seen[-1 - which % len(self.seen)] for which, _ in step.several] if self.seen else []

    async def arrive(self, name: str, step: Step) -> list[Any]:
        return await self.both(name, lambda store, _: store.queue.arrived("shop", self._some(step)))

    async def suppress(self, name: str, step: Step) -> list[Any]:
        return await self.both(name, lambda store, _: store.queue.suppress("shop", self._some(step), "gone"))

    async def fall_back(self, name: str, step: Step) -> list[Any]:
        return await self.both(name, lambda store, _: store.queue.fall_back("shop", self._some(step)))

    async def promote(self, name: str, step: Step) -> list[Any]:
        at = self.now + (5_000, 61_000, 61_000, 3 * DAY)[step.how % 4]
        return await self.both(name, lambda store, _: store.queue.promote(ROUTES[step.which // 2 % 2], at))

    async def cancel(self, name: str, step: Step) -> list[Any]:
        if not self.pushes:
            return [None, None]

        async def cancel(store: Store, _: int) -> Any:
            try:
                await store.pushes.cancel("shop", self.pushes[-1 - step.how % len(self.pushes)].id)
            except Conflict as error:
                return str(error)
            return ""

        return await self.both(name, cancel)

    async def replay(self, name: str, step: Step) -> list[Any]:
        async def replay(store: Store, _: int) -> int:
            status = await store.dead.request(ReplaySpec("shop", DeadFilter()))
            moved = (await store.dead.step("shop", status.job, most=10)).moved
            await store.link.call("DEL", *await store.link.call("KEYS", f"*{status.job}*"))
            return moved

        return await self.both(name, replay)

    async def forget_status(self, name: str, step: Step) -> list[Any]:
        if not self.pushes:
            return [None, None]
        push_id = self.pushes[-1 - step.how % len(self.pushes)].id
        return await self.both(name, lambda store, _: store.link.call("DEL", f"ps:{{shop.0}}:p:{push_id}"))

    async def forget_group(self, name: str, step: Step) -> list[Any]:
        key = f"ps:{{shop.0}}:q:{ROUTES[step.which // 2 % 2].platform}:{LANES[step.how % len(LANES)]}"

        async def forget(store: Store, _: int) -> Any:
            if not await store.link.call("EXISTS", key):
                return None
            return await store.link.call("XGROUP", "DESTROY", key, "dispatch")

        return await self.both(name, forget)

    async def later(self, name: str, step: Step) -> list[Any]:
        self.now += (1, 1000, 30_000, HOUR)[step.how % 4]
        return [None, None]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with backend_server("valkey") as found:
        assert found is not None
        yield found


async def run(server: Server, steps: Sequence[Step]) -> None:
    server.flush()
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        twins = Twins([stack.enter_context(closing(Redis.from_url(f"{server.url}?db={place}"))) for place in (0, 1)])
        for place, stores in enumerate(twins.stores):
            for name in CONSUMERS:
                config = StoreConfig(consumer=name, alive_ttl=3600.0, addresses=addresses())
                url = f"{server.url}?db={place}"
                stores[name] = await stack.enter_async_context(open_store(url, config, clock=lambda: twins.now))
                if place:
                    use(stores[name], general())
        for step in (*BEGIN, *steps):
            await twins.step(step)


HOLD = Step("settle", 0, 0, ((0, 1), (1, 1), (2, 1)))
ENDED_AND_HELD = Step("settle", 0, 0, ((0, 57), (0, 1)))


@settings(max_examples=30)
@given(steps=STEPS)
@example(steps=[Step("cancel", 0, 2, ()), HOLD])
@example(steps=[Step("forget_group", 0, 0, ()), HOLD])
@example(steps=[ENDED_AND_HELD])
def test_the_short_way_writes_what_the_general_way_writes(steps: list[Step], server: Server) -> None:
    asyncio.run(run(server, steps))
