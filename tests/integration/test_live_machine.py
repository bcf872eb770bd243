"""Any order of appends, losses, connects, ends, acknowledgements and moves: no hole with `recovered`, each ack once.

hypothesis drives Redis and its twin in memory through the same steps, and compares every answer. Beside them stand
clients that know only what reached them, as the rules of the port have it: one that learns that it has recovered has
every push that it should have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pushsvc.ports.live import Append, Appended, Connected, LivePush, LiveRoute, Position, Publication, Receiver
from pushsvc.store import Store, StoreConfig, keys

from ..fakes import MemoryStore
from .servers import KINDS, Server, running_server
from .test_live_contract import HOUR, phone, push_of
from .test_store_kit import World, moment

T = TypeVar("T")
LATE = 10**14
"""When all tokens were issued: after any revocation."""
DEVICES = ("d0", "d1", "d2", "d3")
USERS = {"d0": "ann", "d1": "ann", "d2": "bob", "d3": None}
GATEWAYS = ("gate-a", "gate-b", "dead")
KINDS_OF_PUSH = ("good", "good", "good", "expired", "old", "withdrawn")
WINDOW = 1
CONFIG = StoreConfig(history=4, window=WINDOW, alive_ttl=3600.0)


class Client:
    """A device, and the gateway's side of its connection."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.has: set[str] = set()
        self.wanted: set[str] = set()
        """What a client must have that misses nothing."""
        self.route: LiveRoute | None = None
        self.given = Position("", 0)
        """Up to where its gateway has given it the stream."""
        self.on_its_way: dict[int, str] = {}
        """What its gateway has given it and the stream does not have as acknowledged, by offset: two windows at most,
        since it is given more when its acknowledgement comes, and the stream has that a little later."""

    def connected(self, route: LiveRoute | None, found: Connected | None = None) -> None:
        """Have another connection, or none. A gateway gives it the page that it has found."""
        self.route, self.given, self.on_its_way = route, Position("", 0), {}
        if route is not None and found is not None:
            page = found.page
            self.on_its_way = {each.offset: each.push.id for each in page.publications if each.offset > found.acked}
            self.given = Position(page.epoch, page.publications[-1].offset if page.more else page.top)

    def appended(self, found: Appended, push: LivePush) -> None:
        """Give it what was appended, if there is room and it has everything before."""
        at = self.given
        follows = found.epoch == at.epoch and found.prev <= at.offset < found.offset
        if follows and found.route == self.route and len(self.on_its_way) < 2 * WINDOW:
            self.on_its_way[found.offset] = push.id
            self.given = Position(found.epoch, found.offset)

    def take(self, epoch: str, publications: list[Publication], since: int, *, missing: int = 0) -> None:
        """Receive publications that follow `since` without a hole, unless something was reported as missing."""
        for each in publications:
            assert since < each.offset
            assert each.prev <= since or missing
            since = each.offset
            self.has.add(each.push.id)
        self.position = Position(epoch, since)

    def begin(self, pushes: set[str]) -> None:
        """Something is lost, and it was reported: from here on nothing may be missing."""
        self.has, self.wanted = set(), pushes


class LiveMachine(RuleBasedStateMachine):
    """The rules. `server` is set by each test."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.server.flush()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.world = World(self.server, CONFIG)
        self.stack.callback(lambda: self.run(self.world.aclose()))
        store = self.run(self.world.store("a"))
        assert isinstance(store, Store)
        self.store, self.twin = store, MemoryStore(CONFIG)
        self.epochs: dict[str, str] = {"": ""}
        """Of Redis, by those of the twin."""
        self.clients = {name: Client() for name in DEVICES}
        self.pushes: list[LivePush] = []
        self.withdrawn: set[str] = set()
        self.acked: set[tuple[str, str, str]] = set()
        for each in (self.store, self.twin):
            self.run(each.registry.put_many("shop", [phone(name, USERS[name]) for name in DEVICES]))
            for gateway in GATEWAYS[:2]:
                self.run(each.live.beat(gateway, {"shop": 1}))

    def teardown(self) -> None:
        self.stack.close()

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def same(self, real: T, twin: T) -> T:
        """Compare two answers, with epochs that mean the same."""
        left, right = msgspec.to_builtins(real), msgspec.to_builtins(twin)
        assert self._without_epochs(left, right) == self._without_epochs(right, right)
        return real

    def _without_epochs(self, value: Any, twin: Any) -> Any:
        """Exchange each epoch of the twin for the one that Redis has for it; both are learnt where they first occur."""
        if isinstance(value, dict) and isinstance(twin, dict):
            found = {
                name: self._without_epochs(value[name], twin.get(name)) for name in value if name != "connected_at"
            }
            if "epoch" in value and value is not twin:
                self.epochs.setdefault(twin["epoch"], value["epoch"])
            if "epoch" in value and value is twin:
                found["epoch"] = self.epochs[value["epoch"]]
            return found
        if isinstance(value, list) and isinstance(twin, list) and len(value) == len(twin):
            return [self._without_epochs(*pair) for pair in zip(value, twin, strict=True)]
        return value

    def twin_position(self, name: str, position: Position | None) -> Position | None:
        if position is None:
            return None
        (row,) = self.run(self.twin.live.presence("shop", [name]))
        # Streams of two devices may have the same epoch in Redis.
        same = [twin for twin, real in self.epochs.items() if real == position.epoch]
        epoch = row.epoch if row and row.epoch in same else "ffffffff"
        return Position(epoch, position.offset)

    # --- what may happen --------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(KINDS_OF_PUSH),
        collapse=st.sampled_from(["", "", "one", "two"]),
        names=st.lists(st.sampled_from(DEVICES), min_size=1, unique=True),
        arrives=st.booleans(),
    )
    def append(self, kind: str, collapse: str, names: list[str], arrives: bool) -> None:
        number = len(self.pushes)
        at = moment() - 9 * 24 * HOUR if kind == "old" else moment() - HOUR
        expires_at = moment() - 1 if kind == "expired" else moment() + 24 * HOUR
        push = push_of(f"p{number}", at=at + number, expires_at=expires_at, collapse=collapse)
        self.pushes.append(push)
        if kind == "withdrawn":
            self._withdraw(push)
        self._append(push, names, arrives)

    @rule(name=st.sampled_from(DEVICES))
    def overrun(self, name: str) -> None:
        """Append more than its stream has room for."""
        for _ in range(CONFIG.history_of("shop") + 1):
            self.append("good", "", [name], True)

    @rule(data=st.data(), names=st.lists(st.sampled_from(DEVICES), min_size=1, unique=True))
    def append_again(self, data: st.DataObject, names: list[str]) -> None:
        if self.pushes:
            self._append(data.draw(st.sampled_from(self.pushes)), names, True)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.pushes:
            self._withdraw(data.draw(st.sampled_from(self.pushes)))

    def _withdraw(self, push: LivePush) -> None:
        for each in (self.store, self.twin):
            self.run(each.live.withdraw("shop", push.id, push.at))
        self.withdrawn.add(push.id)
        for client in self.clients.values():
            client.wanted.discard(push.id)

    def _append(self, push: LivePush, names: list[str], arrives: bool) -> None:
        receivers = [Receiver(name, index) for index, name in enumerate(names)]
        appends = [Append(push, receivers, "fcm", alone=int(push.id[1:]) % 2 == 0)]
        (real,) = self.run(self.store.live.append_all("shop", appends))
        (twin,) = self.run(self.twin.live.append_all("shop", appends))
        for name, one, other in zip(names, real, twin, strict=True):
            self._appended(name, push, self.same(one, other), arrives)

    def _appended(self, name: str, push: LivePush, found: Appended, arrives: bool) -> None:
        client = self.clients[name]
        assert (found.status == "withdrawn") == (push.id in self.withdrawn)
        if found.replaced is not None:
            client.wanted.discard(found.replaced.push.id)
            client.on_its_way.pop(found.replaced.offset, None)
        if found.status == "new" and push.expires_at > moment() and push.at > moment() - 2 * HOUR:
            client.wanted.add(push.id)
        if found.route is None or found.status not in ("new", "known"):
            return
        assert found.route == client.route
        client.appended(found, push)
        position = client.position
        if not arrives or position is None or position.epoch != found.epoch or found.offset <= position.offset:
            return
        if found.prev <= position.offset:
            client.take(found.epoch, [Publication(found.offset, found.prev, 0, push)], position.offset)
        else:
            self._page(name, position.offset)

    def _shown(self, publications: list[Publication]) -> None:
        assert not self.withdrawn & {each.push.id for each in publications}

    def _page(self, name: str, since: int) -> None:
        """Read what follows an offset, a page at a time."""
        client, missing, more = self.clients[name], 0, True
        while more:
            asked = {"since": since, "limit": 2}
            real = self.run(self.store.live.history("shop", name, **asked))  # type: ignore[arg-type]  # numbers
            twin = self.run(self.twin.live.history("shop", name, **asked))  # type: ignore[arg-type]  # as above
            page = self.same(real, twin)
            assert page is not None
            self._shown(page.publications)
            missing, more = missing + page.missing, page.more
            if missing:
                client.begin({each.push.id for each in page.publications})
            for each in page.publications:
                client.wanted |= {each.push.id} if missing else set()
                client.has.add(each.push.id)
                since = each.offset
            client.position = Position(page.epoch, since)
        if not missing:
            assert client.wanted <= client.has

    @rule(
        name=st.sampled_from(DEVICES),
        gateway=st.sampled_from(GATEWAYS),
        number=st.integers(1, 3),
        how=st.sampled_from(["position", "position", "position", "none", "beyond"]),
        limit=st.sampled_from([1, 2 * WINDOW, 2 * WINDOW, 100]),
        unacked=st.sampled_from([True, True, False]),
    )
    def connect(self, name: str, gateway: str, number: int, how: str, limit: int, unacked: bool) -> None:
        client, route = self.clients[name], LiveRoute(gateway, number)
        position = None if how == "none" else client.position
        if how == "beyond" and position is not None:
            position = Position(position.epoch, position.offset + 1000)
        asked: dict[str, Any] = {"issued_at": LATE, "limit": limit, "unacked": unacked}
        real = self.run(self.store.live.connect("shop", name, route, position=position, **asked))
        asked["position"] = self.twin_position(name, position)
        twin = self.run(self.twin.live.connect("shop", name, route, **asked))
        found = self.same(real, twin)
        assert isinstance(found, Connected)
        self._shown(found.page.publications)
        is_given = unacked and limit == 2 * WINDOW
        client.connected(None if gateway == "dead" else route, found if is_given else None)
        if not found.recovered:
            client.begin({each.push.id for each in found.page.publications})
        page = found.page
        client.take(page.epoch, page.publications, max(found.since, self._floor(found)), missing=page.missing)
        if found.page.more:
            self._page(name, client.position.offset if client.position else 0)
        assert not found.recovered or client.wanted <= client.has
        client.position = Position(
            found.page.epoch, max(found.page.top, client.position.offset if client.position else 0)
        )

    @staticmethod
    def _floor(found: Connected) -> int:
        """Return the offset from which a client goes on that learns that something is missing."""
        first = found.page.publications[:1]
        return first[0].prev if found.page.missing and first else found.since

    @rule(name=st.sampled_from(DEVICES), gateway=st.sampled_from(GATEWAYS), number=st.integers(1, 3))
    def disconnect(self, name: str, gateway: str, number: int) -> None:
        route = LiveRoute(gateway, number)
        self.same(
            self.run(self.store.live.disconnect("shop", name, route)),
            self.run(self.twin.live.disconnect("shop", name, route)),
        )
        if self.clients[name].route == route:
            self.clients[name].connected(None)

    @rule(name=st.sampled_from(DEVICES))
    def revoke(self, name: str) -> None:
        """Nothing is sent to the connection from now on; the next connect, or another revocation, finds it again."""
        for each in (self.store, self.twin):
            self.run(each.live.revoke("shop", name))
        self.clients[name].connected(None)

    @rule(name=st.sampled_from(DEVICES), offset=st.integers(0, 12))
    def ack(self, name: str, offset: int) -> None:
        asked = [(name, Position("", offset))]
        look = self.run(self.store.live.acking("shop", asked))
        real = self.same(self.run(self.store.live.ack("shop", asked)), self.run(self.twin.live.ack("shop", asked)))
        assert real == look
        client, (found,) = self.clients[name], real
        ended = {each.offset for each in found.newly}
        if not found.fault:
            assert ended >= {each for each in client.on_its_way if each <= offset}
            client.on_its_way = {each: push for each, push in client.on_its_way.items() if each > offset}
        position = client.position
        for each in found.newly:
            # A push that was overrun and came again stands in the stream a second time, behind the first.
            key = (name, position.epoch if position else "", f"{each.push.id} {each.offset}")
            assert key not in self.acked
            self.acked.add(key)

    @rule(name=st.sampled_from(DEVICES), offset=st.integers(0, 12))
    def read(self, name: str, offset: int) -> None:
        asked = ("shop", name, Position("", offset))
        self.same(self.run(self.store.live.read(*asked)), self.run(self.twin.live.read(*asked)))

    @rule(name=st.sampled_from(DEVICES), since=st.none() | st.integers(0, 9), limit=st.sampled_from([1, 3, 100]))
    def history(self, name: str, since: int | None, limit: int) -> None:
        for reverse in (False, True):
            asked: dict[str, Any] = {"since": since, "limit": limit, "reverse": reverse}
            self.same(
                self.run(self.store.live.history("shop", name, **asked)),
                self.run(self.twin.live.history("shop", name, **asked)),
            )

    @rule(name=st.sampled_from(DEVICES), user=st.sampled_from(["ann", "bob", None]))
    def register(self, name: str, user: str | None) -> None:
        for each in (self.store, self.twin):
            self.run(each.registry.put("shop", phone(name, user)))
        self._begin_where_new(name)

    @rule(name=st.sampled_from(DEVICES))
    def come_anew(self, name: str) -> None:
        for each in (self.store, self.twin):
            self.run(each.registry.remove("shop", name))
            self.run(each.registry.put("shop", phone(name, USERS[name])))
        self.clients[name].connected(None)
        self.clients[name].wanted = set()

    @rule()
    def lose_all_streams(self) -> None:
        self.run(self.store.link.call("DEL", keys.streams("shop", 0)))
        self.twin.live.lose_streams()
        for client in self.clients.values():
            client.connected(None)
            client.wanted = set()

    def _begin_where_new(self, name: str) -> None:
        """Another user has another stream, in which there is nothing."""
        client = self.clients[name]
        (row,) = self.run(self.store.live.presence("shop", [name]))
        assert row is not None
        if client.position is None or row.epoch != client.position.epoch:
            client.wanted = set()
        if row.epoch != client.given.epoch:
            client.on_its_way = {}

    @invariant()
    def both_show_the_same(self) -> None:
        real = self.run(self.store.live.presence("shop", DEVICES))
        self.same(real, self.run(self.twin.live.presence("shop", DEVICES)))
        for name, row in zip(DEVICES, real, strict=True):
            assert row is not None
            assert row.route == self.clients[name].route


@pytest.mark.parametrize("kind", KINDS)
def test_the_live_channel_keeps_its_promises(kind: Any) -> None:
    with running_server(kind) as server:

        class Machine(LiveMachine):
            pass

        Machine.server = server
        run_state_machine_as_test(
            Machine,
            settings=settings(max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck)),
        )
