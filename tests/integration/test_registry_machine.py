"""Any order of registering, moving, renaming, subscribing, pruning, restoring, burying and erasing: all indexes agree.

hypothesis drives the registry against plain dictionaries, which know nothing of ordinals, digests or containers. After
every step each question that the port answers is asked of both; and every key of Redis is read and held against the
documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from pushsvc.model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from pushsvc.ports.registry import Holding, Prune, PrunedFilter, Strike
from pushsvc.runtime.providers import addresses
from pushsvc.store import Store, StoreConfig

from .registry_audit import audit
from .servers import Server
from .test_registry import device, everyone, remove_user
from .test_store_kit import AnyStore, Backend, World, backend_server

T = TypeVar("T")

IDS = [f"d{n}" for n in range(6)]
TOKENS = ["aa" * 32, "bb" * 32, "cc" * 32, "dQw4w9WgXcQ:APA91b-x_y", "shared"]
PLATFORMS = ["apns", "fcm"]
USERS = [None, "u1", "0a1b2c3d-0000-4000-8000-0123456789ab"]
TOPICS = ["news", "sport", "#"]
REASONS = ["Unregistered", "stale"]
FILLERS = [0, 127, 300]
"""Devices that are there from the beginning: the others then lie across the end of a block, or their topic is dense."""

devices = st.builds(
    lambda name, platform, token, user, locale: Device(
        id=name, platform=platform, token=token, user=user, locale=locale
    ),
    st.sampled_from(IDS),
    st.sampled_from(PLATFORMS),
    st.sampled_from(TOKENS),
    st.sampled_from(USERS),
    st.sampled_from([None, "de-AT"]),
)
ids, topics = st.sampled_from(IDS), st.sampled_from(TOPICS)


class RegistryMachine(RuleBasedStateMachine):
    """The rules. `server` is set by each test; none is the registry in memory."""

    server: Server | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        if self.server is not None:
            self.server.flush()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.world = World(self.server, StoreConfig(addresses=addresses()))
        self.stack.callback(lambda: self.run(self.world.aclose()))
        self.store: AnyStore = self.run(self.world.store("a"))
        self.registry = self.store.registry
        self.model: dict[str, Device] = {}
        self.now = 1000
        self.fillers = 0

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    def tick(self) -> int:
        self.now += 1
        return self.now

    @initialize(fillers=st.sampled_from(FILLERS))
    def fill(self, fillers: int) -> None:
        self.fillers = fillers
        many = [device(f"filler-{n}", topics=("news",), user="crowd") for n in range(fillers)]
        self.run(self.registry.put_many("shop", many))
        self.model = {each.id: each for each in many}

    # --- what may happen ------------------------------------------------------------------------

    def model_put(self, fresh: Device) -> bool:
        for other in list(self.model.values()):
            if (other.platform, other.token) == (fresh.platform, fresh.token) and other.id != fresh.id:
                del self.model[other.id]
        new = fresh.id not in self.model
        self.model[fresh.id] = fresh
        return new

    @rule(given=devices)
    def put(self, given: Device) -> None:
        old = self.model.get(given.id)
        at = self.tick()
        given = replace(given, registered_at=at, last_seen_at=at)
        expected = replace(given, topics=old.topics if old else ())
        new = self.model_put(expected)
        assert self.run(self.registry.put("shop", given)) == (expected, new)

    @rule(given=st.lists(st.tuples(devices, st.sets(topics), st.sampled_from(["", *REASONS])), max_size=8))
    def put_many(self, given: list[tuple[Device, set[str], str]]) -> None:
        many = [
            replace(
                each,
                topics=tuple(sorted(own)),
                registered_at=self.tick(),
                last_seen_at=5,
                state="pruned" if reason else "active",
                pruned_for=reason,
                pruned_at=self.now if reason else 0,
                strikes=len(own),
            )
            for each, own, reason in given
        ]
        expected = [self.model_put(each) for each in many]
        assert self.run(self.registry.put_many("shop", many)) == expected

    @rule(name=ids)
    def remove(self, name: str) -> None:
        assert self.run(self.registry.remove("shop", name)) == (self.model.pop(name, None) is not None)

    @rule(user=st.sampled_from(USERS[1:]))
    def remove_user(self, user: str) -> None:
        expected = [each for each in self.model.values() if each.user == user]
        for each in expected:
            del self.model[each.id]
        removed = self.run(remove_user(self.registry, user))
        assert _by_id(removed) == _by_id(expected)

    @rule(name=ids, topic=topics)
    def subscribe(self, name: str, topic: str) -> None:
        old = self.model.get(name)
        if old and topic not in old.topics:
            self.model[name] = replace(old, topics=(*old.topics, topic))
        assert self.run(self.registry.subscribe("shop", topic, name)) == (old is not None)

    @rule(name=ids, topic=topics)
    def unsubscribe(self, name: str, topic: str) -> None:
        old = self.model.get(name)
        expected = old is not None and topic in old.topics
        if old:
            self.model[name] = replace(old, topics=tuple(each for each in old.topics if each != topic))
        assert self.run(self.registry.unsubscribe("shop", topic, name)) == expected

    @rule(
        asked=st.lists(st.tuples(ids, st.sampled_from(TOKENS), st.booleans(), st.sampled_from(REASONS)), max_size=4),
        later=st.sampled_from([0, -3]),
    )
    def prune(self, asked: list[tuple[str, str, bool, str]], later: int) -> None:
        prunes, expected = [], []
        for name, token, right, reason in asked:
            old = self.model.get(name)
            judged = old.registered_at + later if old else 0
            prune = Prune(name, old.token if old and right else token, judged, reason, self.tick())
            prunes.append(prune)
            hit = old is not None and old.token == prune.token and old.registered_at == judged and old.state == "active"
            expected.append(hit)
            if old and hit:
                self.model[name] = replace(old, state="pruned", pruned_at=prune.at, pruned_for=reason)
        assert self.run(self.registry.prune("shop", prunes)) == expected

    @rule(
        asked=st.lists(
            st.tuples(ids, st.sampled_from(TOKENS), st.booleans(), st.sampled_from([0, 3]), st.integers(1, 3)),
            max_size=4,
        ),
        later=st.sampled_from([0, -3]),
    )
    def strike(self, asked: list[tuple[str, str, bool, int, int]], later: int) -> None:
        strikes, expected = [], []
        for name, token, right, other, count in asked:
            old = self.model.get(name)
            judged = old.registered_at + later if old else 0
            strike = Strike(
                name,
                old.token if old and right else token,
                judged,
                self.tick(),
                count,
                after=(old.struck_at if old else 0) + other,
            )
            strikes.append(strike)
            hit = (
                old is not None
                and (old.token, old.registered_at) == (strike.token, judged)
                and old.struck_at == strike.after
            )
            expected.append(hit)
            if old and hit:
                self.model[name] = replace(old, strikes=count, struck_at=strike.at)
        assert self.run(self.registry.strike("shop", strikes)) == expected

    @rule(asked=st.lists(st.tuples(st.none() | ids, st.sampled_from(TOKENS)), max_size=4))
    def holders(self, asked: list[tuple[str | None, str]]) -> None:
        wanted = [Holding(name, "apns", token) for name, token in asked]
        owners = {each.token: each for each in self.model.values() if each.platform == "apns"}
        expected = [owners.get(token) if name is None else self.model.get(name) for name, token in asked]
        found = self.run(self.registry.holders("shop", wanted))
        assert found == expected

    @rule(
        platform=st.sampled_from(["", *PLATFORMS]),
        reason=st.sampled_from(["", *REASONS]),
        since=st.sampled_from([None, 5]),
        until=st.sampled_from([None, 5]),
        limit=st.sampled_from([1, 100]),
    )
    def restore(self, platform: str, reason: str, since: int | None, until: int | None, limit: int) -> None:
        # Instants as numbers of ticks ago.
        since, until = (None if ago is None else self.now - ago for ago in (since, until))
        which = PrunedFilter(platform=platform, reason=reason, since=since, until=until)
        meant = [
            each
            for each in self.model.values()
            if each.state == "pruned"
            and platform in ("", each.platform)
            and reason in ("", each.pruned_for)
            and (since is None or each.pruned_at >= since)
            and (until is None or each.pruned_at < until)
        ]
        assert self.run(self.registry.pruned("shop", which)) == len(meant)
        assert self.run(self.registry.restore("shop", which, limit=limit)) == min(limit, len(meant))
        self.follow(
            meant,
            limit,
            lambda each: replace(each, state="active", pruned_at=0, pruned_for="", strikes=0, struck_at=0),
        )

    @rule(
        names=st.lists(ids, unique=True),
        fate=st.sampled_from(["stay", "go", "stale", "rename"]),
        dry_run=st.booleans(),
    )
    def revise(self, names: list[str], fate: str, dry_run: bool) -> None:
        at = self.tick()

        def judge(each: Device) -> Device | None:
            if fate == "stay" or (fate == "stale" and each.state == "pruned"):
                return each
            if fate == "go":
                return None
            if fate == "rename":
                return replace(each, user="u1", locale=f"x-{at}")
            return replace(each, state="pruned", pruned_at=at, pruned_for="stale")

        old = [self.model[name] for name in names if name in self.model]
        expected = [(each, judge(each)) for each in old if judge(each) is not each]
        assert self.run(self.registry.revise("shop", names, judge, dry_run=dry_run)) == expected
        for each, became in () if dry_run else expected:
            if became is None:
                del self.model[each.id]
            else:
                self.model[each.id] = became

    def follow(self, meant: list[Device], limit: int, become: Any) -> None:
        """With a limit it is the registry's own choice which: each is either as before or as it shall be."""
        changed = 0
        for each in meant:
            found = self.run(self.registry.get("shop", each.id))
            if found != each:
                changed += 1
                assert found == become(each)
                if found is None:
                    del self.model[each.id]
                else:
                    self.model[each.id] = found
        assert changed == min(limit, len(meant))

    # --- what must hold -------------------------------------------------------------------------

    @invariant()
    def every_answer_is_the_models(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        registry, model = self.registry, self.model
        for name in [*IDS, "filler-0"]:
            assert await registry.get("shop", name) == model.get(name)
        for platform in PLATFORMS:
            for token in TOKENS:
                owners = [each for each in model.values() if (each.platform, each.token) == (platform, token)]
                assert await registry.holders("shop", [Holding(None, platform, token)]) == [*owners, None][:1]
        for user in USERS[1:]:
            assert user is not None
            owned = [each for each in model.values() if each.user == user]
            assert _by_id(await registry.of_user("shop", user)) == _by_id(owned)
        active = {name for name, each in model.items() if each.state == "active"}
        assert await registry.count("shop") == len(active)
        assert sorted(await everyone(registry, ToAll(), 128)) == sorted(active)
        for topic in TOPICS:
            subscribed = [name for name, each in model.items() if topic in each.topics]
            assert await registry.topic_size("shop", topic) == (len(active & set(subscribed)) if subscribed else None)
            assert sorted(await everyone(registry, ByTopic(topic), 100)) == sorted(active & set(subscribed))
        assert sorted(await everyone(registry, ByDevices(tuple(IDS)), 4)) == sorted(active & set(IDS))
        of_users = {name for name in active if model[name].user in USERS[1:]}
        assert sorted(await everyone(registry, ByUsers(tuple(filter(None, USERS))), 1)) == sorted(of_users)

    @invariant()
    def every_key_agrees_with_the_documents(self) -> None:
        if isinstance(self.store, Store):
            found = self.run(audit(self.store))
            assert _by_id(found.values()) == self.model

    def teardown(self) -> None:
        """Everything goes; no key is left but the counters and a block that is still being filled."""
        try:
            self.run(remove_user(self.registry, "crowd"))
            for name in self.model:
                assert self.run(self.registry.remove("shop", name)) == (name in IDS)
            self.model = {}
            self.every_key_agrees_with_the_documents()
            self.run(self.compare())
        finally:
            self.stack.close()


def _by_id(found: Any) -> dict[str, Device]:
    by_id = {each.id: each for each in found}
    assert len(by_id) == len(list(found))
    return by_id


@pytest.mark.parametrize("backend", ["memory", "valkey", "redis"])
def test_any_order_of_steps(backend: Backend) -> None:
    with backend_server(backend) as server:
        machine = type("Machine", (RegistryMachine,), {"server": server})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=20,
                stateful_step_count=25,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
