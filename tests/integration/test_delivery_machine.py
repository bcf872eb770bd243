"""The whole life of a delivery, by real dispatchers over a real Redis, in any order of what may happen to it.

hypothesis accepts and schedules pushes, reads audiences, answers what is in flight as providers do, cancels,
suppresses, erases, moves devices, has them join and leave a topic, replaces messages, replays, and pauses, kills and
restarts dispatchers, in between at any point of time. What must hold is asked at each submit, at each step and in the
end: nothing goes out after its revocation was answered but what was in flight then, nothing is sent twice but what a
process took to its grave, nothing is sent that a newer message has replaced, counts balance and are never taken
back, and rows say what happened. All of it holds for deliveries that the live channel carries first, whose devices
acknowledge them at any time.

`PUSHSVC_MACHINE_EXAMPLES` and `PUSHSVC_MACHINE_STEPS` make a longer search of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from structlog.testing import capture_logs

from pushsvc.errors import Conflict
from pushsvc.model.codec import decode_audience, encode_audience
from pushsvc.model.delivery import ENDS, Arrival, BadNotification, Outcome, Sent, TokenDead
from pushsvc.model.devices import Audience, ByTopic, ByWhere, Device, ToAll
from pushsvc.model.push import Lane, Message, Push, Route, Target
from pushsvc.model.routing import CARRIERS, path_name
from pushsvc.model.status import PushStatus
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.registry import Members
from pushsvc.rules.audience import reached, targets_of
from pushsvc.store import StoreConfig, keys
from pushsvc.store.revoke.revocations import PATIENCE
from pushsvc.store.revoke.suppression import ERASED_AT, ERASING_AT

from .delivery_model import (
    ANNS,
    DEAD,
    DISPATCH,
    LIVE_OUTCOMES,
    NAMES,
    OUTCOMES,
    PHONES,
    RETRY,
    SHARED,
    TAKEOVER,
    WITHIN,
    WRITTEN,
    Dispatching,
    Flight,
    Model,
    Phone,
    Withdrawn,
)
from .servers import Server
from .stepped import Process, SteppedWorld
from .test_store_kit import Backend, backend_server, entries_of, eraser

AUDIENCES: tuple[Audience, ...] = (ByTopic("news"), ByWhere("user == 'carl' or user == 'dora'"))
PAGE = 128
PATHS = {name: path_name("apns", channels) for name, channels in (("", ("apns",)), ("first", ("live", "apns")))}
PATHS["only"] = path_name("apns", ("live",))
CHANNELS = ("apns", "live")


class DeliveryMachine(RuleBasedStateMachine):
    """The rules. `server` and `config` are set by each test."""

    server: Server
    config = StoreConfig()

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.stack = ExitStack()
        self.world = SteppedWorld(self.server.url, self.config)
        self.stack.callback(self.world.close)
        self.store = self.world.caller.store
        self.pushes: dict[str, Model] = {}
        self.withdrawn: dict[str, list[Withdrawn]] = {token: [] for token in SHARED}
        self.phones = {name: Phone() for name in PHONES}
        self.taking_back: list[asyncio.Task[Any]] = []
        self.dispatchers: dict[str, Dispatching] = {}
        for name in NAMES:
            self.dispatchers[name] = self.dispatcher(name)

    def dispatcher(self, name: str) -> Dispatching:
        """Start one."""
        return Dispatching(self.world, name, self.submitted)

    # --- what is asked at each submit -------------------------------------------------------------

    def submitted(self, flight: Flight) -> None:
        chunk, target = flight.delivery.chunk, flight.delivery.target
        model = self.pushes[chunk.push_id]
        what = f"{chunk.push_id}/{target.index} by {flight.process.name}"
        say = self.world.faults.append
        if model.cancelled and flight.process not in model.deaf:
            say(f"{what}: sent after its cancel was answered")
        for each in self.withdrawn.get(target.token, ()):
            # The live channel needs no token, and carries on what is suppressed for a provider.
            suppressed = each.later and chunk.channel not in CARRIERS
            if flight.process not in each.deaf and (suppressed or chunk.push_id in each.pushes):
                say(f"{what}: sent after its token was taken back")
        if target.device_id is not None:
            phone = self.phones[target.device_id]
            if flight.process not in phone.deaf and not phone.may_get(target, chunk.topic):
                say(f"{what}: sent to what {target.device_id} was before")
        if newer := self.newer(model, flight):
            say(f"{what}: sent after {newer}, which replaces it")
        if chunk.expires_at <= self.world.clock.ms():
            say(f"{what}: sent after its time")
        if target.index in model.in_time:
            say(f"{what}: sent after its device had acknowledged it in time")
        if chunk.starts_at > self.world.clock.ms():
            say(f"{what}: sent before its time")
        for before in model.flights[target.index]:
            if before.excused:
                continue
            if before.outcome is None:
                say(f"{what}: in flight twice, also by {before.process.name}")
            elif isinstance(before.outcome, (Sent, TokenDead, BadNotification)):
                say(f"{what}: sent again after {before.outcome}")
        model.flights[target.index].append(flight)

    def newer(self, model: Model, flight: Flight) -> str:
        """Another push with the same `collapse` that was accepted for the same token, or nothing."""
        own, token = model.message, flight.delivery.target.token
        for name, other in self.pushes.items() if own.collapse else ():
            if (other.message.collapse, other.message.since, name) > (own.collapse, own.since, model.push.id):
                for each in (each for flights in other.flights.values() for each in flights):
                    known = each.recorded and not each.excused and flight.process not in each.deaf
                    if known and isinstance(each.outcome, Sent) and each.delivery.target.token == token:
                        return name
        return ""

    def all_flights(self, process: Process) -> list[Flight]:
        return [
            each
            for model in self.pushes.values()
            for flights in model.flights.values()
            for each in flights
            if each.process is process
        ]

    def standing(self) -> set[Process]:
        return {each.process for each in self.dispatchers.values() if each.process.paused_at is not None}

    def hear(self) -> None:
        """Who runs and has had its say has heard everything by now. Who stands still for as long as its lease lasts has
        lost what it has in flight."""
        self.world.settle()
        for process in [dispatching.process for dispatching in self.dispatchers.values()]:
            since = process.paused_at
            if since is not None and self.world.clock.now - since >= TAKEOVER - DISPATCH.beat_every:
                self.excuse(process)
        standing = self.standing()
        for model in self.pushes.values():
            model.deaf &= standing
        for withdrawn in self.withdrawn.values():
            for each in withdrawn:
                each.deaf &= standing
        for phone in self.phones.values():
            phone.deaf &= standing
        for model in self.pushes.values():
            for flights in model.flights.values():
                for flight in flights:
                    flight.deaf &= standing

    def pass_time(self, seconds: float) -> None:
        self.world.advance(seconds)
        self.hear()
        for each in self.dispatchers.values():
            process = each.process
            if process.runs and seconds >= 0.02:
                for flight in self.all_flights(process):
                    if flight.outcome is not None and not flight.recorded:
                        flight.recorded, flight.recorded_at, flight.deaf = True, self.world.clock.now, self.standing()

    def excuse(self, process: Process) -> None:
        for flight in self.all_flights(process):
            flight.excused |= not flight.recorded

    # --- what may happen --------------------------------------------------------------------------

    @rule(
        own=st.sampled_from([0, 1, 3, 9, 40]),
        shared=st.sets(st.sampled_from(SHARED)),
        phones=st.sets(st.sampled_from(PHONES)),
        lane=st.sampled_from(["urgent", "bulk"]),
        send_in=st.sampled_from([None, None, None, 2.0]),
        ttl=st.sampled_from([5.0, 300.0, 300.0]),
        collapse=st.sampled_from(["", "", "score"]),
        at_once=st.sampled_from([False, False, False, True]),
        via=st.sampled_from(["", "", "first", "first", "only"]),
        seed=st.integers(0, 1 << 16),
    )
    def accept(
        self,
        own: int,
        shared: set[str],
        phones: set[str],
        lane: Lane,
        send_in: float | None,
        ttl: float,
        collapse: str,
        at_once: bool,
        via: str,
        seed: int,
    ) -> None:
        """`at_once`: and cancelled at once, while processes go on in an order that `seed` says."""
        name = self.new_id()
        tokens = [*sorted(shared), *(f"{name}-{number}" for number in range(own))] or [f"{name}-only"]
        targets = [Target(index, token) for index, token in enumerate(tokens)]
        devices = [device for phone in sorted(phones) if (device := self.phones[phone].device) is not None]
        targets += targets_of(devices, len(targets)).get("apns", [])
        now = self.world.clock.ms()
        since = (now if send_in is None else now + int(send_in * 1000)) if collapse else 0
        send_at = None if send_in is None else now + int(send_in * 1000)
        push = Push(
            id=name,
            app="shop",
            lane=lane,
            created_at=now,
            expires_at=(send_at or now) + int(ttl * 1000),
            messages={name: Message(name, b"{}", collapse=collapse, since=since) for name in CHANNELS},
            targets={PATHS[via]: tuple(targets)},
            send_at=send_at,
        )
        self.pushes[name] = model = Model(push)
        if at_once:
            model.cancelling = True
            self.world.luck = Random(seed)
            self.world.call(self._accept_and_cancel(model))
            self.world.luck = None
        else:
            self.world.call(self.store.pushes.accept(push))
        self.hear()

    def new_id(self) -> str:
        """An id that says when the push was accepted, as the API makes them, and in their order."""
        digits = f"{self.world.clock.ms():012x}"
        return f"{digits[:8]}-{digits[8:]}-7000-8000-{len(self.pushes):012x}"

    async def _accept_and_cancel(self, model: Model) -> None:
        """It is cancelled while dispatchers read it."""
        await self.store.pushes.accept(model.push)
        await self._cancel(model)

    @rule(to=st.sampled_from(AUDIENCES), collapse=st.sampled_from(["", "score"]))
    def broadcast(self, to: Audience, collapse: str) -> None:
        """Push to the devices that are in an audience when it is read."""
        name, now = self.new_id(), self.world.clock.ms()
        push = Push(
            id=name,
            app="shop",
            lane="normal",
            created_at=now,
            expires_at=now + 300_000,
            messages={"apns": Message("apns", b"{}", collapse=collapse, since=now if collapse else 0)},
            targets={},
            audience=encode_audience(to),
        )
        self.pushes[name] = Model(push)
        self.world.call(self.store.pushes.accept(push))
        self.hear()

    @precondition(lambda self: any(model.push.audience for model in self.pushes.values()))
    @rule(data=st.data())
    def expand(self, data: st.DataObject) -> None:
        """Read a page of an audience, or write the deliveries of the page that was read."""
        names = sorted(name for name, model in self.pushes.items() if model.push.audience)
        self.world.call(self._expand(self.pushes[data.draw(st.sampled_from(names))]))
        self.hear()

    async def _expand(self, model: Model) -> None:
        name = model.push.id
        if model.page is None:
            at = await self.store.expansions.load("shop", name)
            if at is not None:
                audience = decode_audience(at.push.audience)
                kind = ToAll() if isinstance(audience, ByWhere) else audience
                page = await self.store.registry.members("shop", kind, after=at.cursor, limit=PAGE)
                found = list(filter(reached(at.push, audience), page.devices))
                model.page = at, Members(found, page.cursor)
            return
        at, page = model.page
        model.page = None
        targets = targets_of(page.devices, at.total)
        model.targets += targets.get("apns", ())
        if await self.store.expansions.advance(at, targets, cursor=page.cursor, lease=1000) is None:
            assert model.cancelling, name
            del model.targets[at.total :]

    @rule(
        who=st.sampled_from(NAMES),
        outcome=st.sampled_from([OUTCOMES[0], OUTCOMES[0], *OUTCOMES]),
        count=st.sampled_from([1, 3, 100]),
        wait=st.sampled_from([0.0, 0.05]),
    )
    def answer(self, who: str, outcome: Outcome, count: int, wait: float) -> None:
        each = self.dispatchers[who]
        if not each.over:
            each.provider.say(outcome, count)
            self.pass_time(wait)

    @rule(
        who=st.sampled_from(NAMES),
        outcome=st.sampled_from(LIVE_OUTCOMES),
        count=st.sampled_from([1, 3, 100]),
        wait=st.sampled_from([0.0, 0.05]),
    )
    def answer_live(self, who: str, outcome: Outcome, count: int, wait: float) -> None:
        """Nobody is there, or it is written to a device."""
        each = self.dispatchers[who]
        if not each.over:
            each.live.say(outcome, count)
            self.pass_time(wait)

    @rule(first=st.integers(0, 99), count=st.sampled_from([1, 2, 50]))
    def acknowledge(self, first: int, count: int) -> None:
        """Devices acknowledge what was written to them, at any time. What hypothesis draws does not depend on it: a
        real Redis decides how far each delivery is."""
        if written := self.written():
            first %= len(written)
            self.world.call(self._acknowledge(written[first : first + count]))
            self.hear()

    def written(self) -> list[Flight]:
        """What went to a device and is not acknowledged, in the order of the pushes."""
        return [
            each
            for _, model in sorted(self.pushes.items())
            for index, flights in sorted(model.flights.items())
            for each in flights[-1:]
            if index not in model.acknowledged and each.delivery.chunk.channel == "live"
        ]

    async def _acknowledge(self, flights: list[Flight]) -> None:
        for flight in flights:
            chunk, target = flight.delivery.chunk, flight.delivery.target
            model, now = self.pushes[chunk.push_id], self.world.clock.ms()
            arrival = Arrival(
                chunk.push_id, target.index, chunk.total, chunk.lane, chunk.platform, target.device_id, now
            )
            if await self.store.queue.arrived("shop", [arrival, arrival]):
                model.acknowledged.add(target.index)
                due = flight.answered_at + WITHIN
                if flight.outcome is WRITTEN and flight.recorded and not flight.excused and self.world.clock.now < due:
                    model.in_time.add(target.index)

    @rule(who=st.sampled_from(NAMES), room=st.sampled_from([0, 1, 5, 50]), live=st.booleans())
    def widen(self, who: str, room: int, live: bool) -> None:
        each = self.dispatchers[who]
        if not each.over:
            each.process.loop.call_soon((each.live if live else each.provider).widen, room)
            self.hear()

    @rule(seconds=st.sampled_from([0.05, 0.5, 2.0, 6.0, 15.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), wait=st.booleans())
    def cancel(self, data: st.DataObject, wait: bool) -> None:
        model = self.pushes[data.draw(st.sampled_from(sorted(self.pushes)))]
        model.cancelling = True
        task = self.world.begin(self._cancel(model))
        self.taking_back.append(task)
        if wait:
            self.world.advance(10.0, task.done)
            self.hear()

    async def _cancel(self, model: Model) -> None:
        try:
            status = await self.store.pushes.cancel("shop", model.push.id)
        except Conflict:
            return
        # From here on; no loop has gone on since the answer was read.
        model.cancelled = True
        model.deaf |= self.standing()
        assert status is not None
        self.look_at(model, status)
        if not self.standing() and not any(each.process.dead for each in self.dispatchers.values()):
            counts = status.counts  # all have spoken
            assert counts.queued <= len(model.open), f"{model.push.id}: {counts} but {len(model.open)} in flight"

    @rule(token=st.sampled_from(DEAD), wait=st.booleans())
    def suppress(self, token: str, wait: bool) -> None:
        task = self.world.begin(self._suppress(token))
        self.taking_back.append(task)
        if wait:
            self.world.advance(10.0, task.done)
            self.hear()

    async def _suppress(self, token: str) -> None:
        await self.store.suppressions.add("shop", [("apns", token, self.world.clock.ms())], wait=True)
        self.withdrawn[token].append(Withdrawn((), self.standing(), later=True))

    @rule(wait=st.booleans())
    def erase(self, wait: bool) -> None:
        task = self.world.begin(self._erase())
        self.taking_back.append(task)
        if wait:
            self.world.advance(10.0, task.done)
            self.hear()

    async def _erase(self) -> None:
        now = self.world.clock.ms()
        for number, token in enumerate(ANNS):
            device = Device(id=f"d{number}", platform="apns", token=token, user="ann", registered_at=now)
            await self.store.registry.put("shop", device)
        before = set(self.pushes)
        while not (await eraser(self.store).erase("shop", "ann", wait=5.0)).done:
            pass
        for token in ANNS:
            until = await self._erased_until(token)
            assert until is None or until >= now
            accepted = {name for name, model in self.pushes.items() if until and model.push.created_at < until}
            self.withdrawn[token].append(Withdrawn(before | accepted, self.standing(), later=False))

    async def _erased_until(self, token: str) -> int | None:
        """What was accepted before this instant is not sent; None while she is being erased once more."""
        shard, digest = self.store.suppressions.locate("shop", token)
        score = int(float(await self.store.link.call("ZSCORE", keys.suppressed("shop", shard, "apns"), digest)))
        return score - ERASED_AT if score < ERASING_AT else None

    @rule(name=st.sampled_from(PHONES), user=st.sampled_from(["carl", "dora", None]), renew=st.booleans())
    def login(self, name: str, user: str | None, renew: bool) -> None:
        """Another user, or nobody, or the same one, perhaps with a new token."""
        phone = self.phones[name]
        phone.renewals += renew
        token = f"{name}-{phone.renewals}"
        now = self.world.clock.ms()
        device = Device(id=name, platform="apns", token=token, user=user, registered_at=now, last_seen_at=now)
        # A registration keeps the topics of its device, from the moment at which it is written.
        topics = () if phone.device is None else phone.device.topics
        registered = msgspec.structs.replace(device, topics=topics)
        self.move(phone, registered, self.store.registry.put("shop", device))

    @rule(name=st.sampled_from(PHONES))
    def leave(self, name: str) -> None:
        """The device is deleted."""
        self.move(self.phones[name], None, self.store.registry.remove("shop", name))

    @rule(name=st.sampled_from(PHONES), joins=st.sampled_from([True, True, False]))
    def topic(self, name: str, joins: bool) -> None:
        """The device joins the topic, or leaves it."""
        phone, registry = self.phones[name], self.store.registry
        if phone.device is not None:
            topics = ("news",) if joins else ()
            change = (registry.subscribe if joins else registry.unsubscribe)("shop", "news", name)
            self.move(phone, msgspec.structs.replace(phone.device, topics=topics), change)

    def move(self, phone: Phone, to: Device | None, change: Coroutine[Any, Any, Any]) -> None:
        phone.states.append(to)
        phone.changes += 1

        async def moving() -> None:
            await change
            phone.states[:] = [await self.store.registry.get("shop", to.id) if to is not None else None]
            phone.deaf |= self.standing()

        self.world.call(moving())
        self.hear()

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), stop=st.booleans())
    def replay(self, data: st.DataObject, stop: bool) -> None:
        """All dead letters of a push; `stop`: taken back when a part of it has moved."""
        model = self.pushes[data.draw(st.sampled_from(sorted(self.pushes)))]
        self.pass_time(0.05)
        spec = ReplaySpec("shop", DeadFilter(push=model.push.id))
        self.world.call(self._replay(model, spec, stop=stop))
        self.hear()

    async def _replay(self, model: Model, spec: ReplaySpec, *, stop: bool) -> None:
        dead = self.store.dead
        job = (await dead.request(spec)).job
        model.replayed = True
        # What is sent again was answered before: earlier flights are independent of later ones.
        for flights in model.flights.values():
            flights[:] = [each for each in flights if not each.recorded]
        moved = 0
        while not (step := await dead.step("shop", job, most=1 if stop else 100)).over:
            moved += step.moved
            if stop:
                await dead.stop("shop", job)
        model.reported["failed"] -= moved

    @rule(who=st.sampled_from(NAMES))
    def pause(self, who: str) -> None:
        each = self.dispatchers[who]
        if not each.over and each.process.paused_at is None:
            self.world.pause(each.process)

    @rule(who=st.sampled_from(NAMES))
    def resume(self, who: str) -> None:
        each = self.dispatchers[who]
        if not each.over and each.process.paused_at is not None:
            self.world.resume(each.process)
            self.hear()

    @rule(who=st.sampled_from(NAMES), again=st.booleans())
    def kill(self, who: str, again: bool) -> None:
        """Another one with its name comes, at once or later."""
        each = self.dispatchers[who]
        if not each.over:
            self.world.kill(each.process)
            self.excuse(each.process)
        if each.over and again:
            self.dispatchers[who] = self.dispatcher(who)
            self.hear()

    @rule(who=st.sampled_from(NAMES))
    def drain(self, who: str) -> None:
        """Stop the dispatcher while its provider answers what is in flight."""
        each = self.dispatchers[who]
        if not each.over and each.process.runs:
            each.process.loop.call_soon(each.process.stop.set)
            self.world.settle()
            each.say_good()
            self.pass_time(1.0)
            assert each.process.main.done()
            for flight in self.all_flights(each.process):
                assert flight.outcome is not None
            self.dispatchers[who] = self.dispatcher(who)
            self.hear()

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def holds(self) -> None:
        self.world.settle()  # what is compared below is read by several questions
        self.nothing_went_wrong()
        self.counts_balance_and_are_not_taken_back()
        self.gauges_agree()
        self.nothing_went_wrong()

    def nothing_went_wrong(self) -> None:
        for task in [task for task in self.taking_back if task.done()]:
            self.taking_back.remove(task)
            task.result()
        assert self.world.faults == []

    def counts_balance_and_are_not_taken_back(self) -> None:
        statuses = self.world.call(self.store.pushes.statuses([("shop", name) for name in self.pushes]))
        for model, status in zip(self.pushes.values(), statuses, strict=True):
            assert status is not None
            self.look_at(model, status)

    def look_at(self, model: Model, status: PushStatus) -> None:
        counts = msgspec.structs.asdict(status.counts)
        name = model.push.id
        total = counts.pop("total")
        assert total == len(model.targets) == sum(counts.values()), (name, total, counts)
        for end in ENDS:
            assert counts[end] >= model.reported[end], (name, end, counts, model.reported)
            model.reported[end] = counts[end]
        if (live := status.live) is not None:
            assert min(live.acked, live.fallback, live.waiting) >= 0, (name, status)
            assert live.acked + live.fallback + live.waiting <= total, (name, status)
            assert live.acked <= counts["sent"], (name, status)
        if status.state in ("done", "cancelled"):
            assert counts["queued"] == counts["retrying"] == 0, (name, status)
            assert live is None or not live.waiting, (name, status)

    def gauges_agree(self) -> None:
        gauges = self.world.call(self.store.gauges({"shop": CHANNELS}))
        statuses = self.world.call(self.store.pushes.statuses([("shop", name) for name in self.pushes]))
        found = [status for status in statuses if status is not None]
        scheduled = sum(each.counts.queued for each in found if each.state == "scheduled")
        least = sum(each.counts.queued + each.counts.retrying for each in found) - scheduled
        most = least + sum(each.counts.cancelled for each in found)
        figures = gauges.apps["shop"]
        assert least <= figures.total_pending <= most, (figures.total_pending, least, most)
        assert figures.scheduled == scheduled

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            self.stack.close()

    def finish(self) -> None:
        """Everybody goes on, every answer is good, and a newcomer is there in any case."""
        self.nothing_went_wrong()
        self.hear()
        for each in self.dispatchers.values():
            if not each.over:
                self.world.resume(each.process)
                each.process.loop.call_soon(each.provider.widen, 50)
                each.process.loop.call_soon(each.live.widen, 50)
        self.dispatchers["heir"] = self.dispatcher("heir")
        self.hear()
        settled = False
        for _ in range(200):
            for model in self.pushes.values():
                if model.push.audience:
                    self.world.call(self._expand(model))
            for each in self.dispatchers.values():
                if not each.over:
                    each.say_good()
            self.pass_time(2.0)
            only = [each for each in self.written() if not each.delivery.chunk.fallbacks]
            self.world.call(self._acknowledge(only))
            statuses = self.world.call(self.store.pushes.statuses([("shop", name) for name in self.pushes]))
            settled = all(each is not None and each.state in ("done", "cancelled") for each in statuses)
            if settled and not self.taking_back and not self.pending():
                break
            self.nothing_went_wrong()
        self.nothing_went_wrong()
        self.counts_balance_and_are_not_taken_back()
        assert settled
        assert not self.taking_back
        for name, model in self.pushes.items():
            self.ended_as_it_happened(name, model)
        self.nothing_is_left()

    def pending(self) -> int:
        figures = self.world.call(self.store.gauges({"shop": CHANNELS})).apps["shop"]
        entries = sum(self.world.call(entries_of(self.store, Route("shop", channel))) for channel in CHANNELS)
        # What has ended meanwhile is taken out of the retries when it is due.
        shards = range(self.config.shards_of("shop"))
        places = [keys.retries("shop", shard, channel) for shard in shards for channel in CHANNELS]
        retries = sum(self.world.call(self.store.link.call("ZCARD", place)) for place in places)
        return figures.total_pending + entries + int(retries)

    def ended_as_it_happened(self, name: str, model: Model) -> None:
        found = self.world.call(self.store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=1000))
        assert found is not None
        rows = found[0]
        counted = {end: sum(row.outcome == end for row in rows) for end in ENDS}
        total = len(model.targets)
        if model.cancelling and model.push.send_at is not None and len(rows) < total:
            return  # cancelled before its time: no row of its own says so
        assert len(rows) == total, (name, len(rows))
        assert counted == model.reported, name
        for index, row in enumerate(rows):
            outcomes = [type(each.outcome) for each in model.flights[index]]
            certain = [type(each.outcome) for each in model.flights[index] if each.recorded and not each.excused]
            what = (name, index, row, outcomes)
            if model.replayed:
                continue
            if Sent in certain:
                assert row.outcome == "sent", what
            if index in model.acknowledged:
                assert (row.outcome, row.channel) == ("sent", "live"), what
            elif row.outcome == "sent":
                assert Sent in outcomes, what
                assert row.channel != "live", what
            elif row.outcome == "invalid":
                assert TokenDead in outcomes, what
            elif row.outcome == "failed":
                assert outcomes, what
            elif row.outcome == "cancelled":
                token = model.targets[index].token
                # An erasure that was under way when the push was accepted may end some of it.
                assert model.cancelling or (row.reason == "erased" and self.withdrawn.get(token)), what
            elif row.outcome == "suppressed":
                target = model.targets[index]
                moved = target.device_id is not None and self.phones[target.device_id].changes > 1
                assert moved or self.withdrawn.get(target.token) or model.message.collapse, what

    def nothing_is_left(self) -> None:
        figures = self.world.call(self.store.gauges({"shop": CHANNELS})).apps["shop"]
        assert (figures.total_pending, figures.scheduled) == (0, 0)
        for channel in CHANNELS:
            assert figures.retry_pending[channel] == sum(figures.pending[channel].values()) == 0
            assert self.world.call(entries_of(self.store, Route("shop", channel))) == 0
        call = self.store.link.call
        for shard in range(self.config.shards_of("shop")):
            assert self.world.call(call("ZCARD", keys.cancelled("shop", shard))) == 0
            for channel in CHANNELS:
                assert self.world.call(call("ZCARD", keys.retries("shop", shard, channel))) == 0
            living = {each.process.name for each in self.dispatchers.values() if not each.over}
            heard = {name.decode() for name in self.world.call(call("HKEYS", keys.heard("shop", shard)))}
            assert heard >= living
        for name, model in self.pushes.items():
            shard = keys.shard_of(name, self.config.shards_of("shop"))
            lost = any(each.excused for flights in model.flights.values() for each in flights)
            if model.cancelled and not lost and len(model.targets) > 1 and not model.acknowledged:
                flying = int(self.world.call(call("HGET", keys.push("shop", shard, name), "fi")) or 0)
                assert flying <= 0, (name, flying)
        # Those of an erased token go; the count stays.
        assert figures.dead_letters <= sum(model.reported["failed"] for model in self.pushes.values())


EXAMPLES = int(os.environ.get("PUSHSVC_MACHINE_EXAMPLES", "6"))
STEPS = int(os.environ.get("PUSHSVC_MACHINE_STEPS", "30"))


@pytest.fixture
def silent() -> Iterator[None]:
    """Thousands of dispatchers start and end."""
    with capture_logs():
        yield


@pytest.mark.parametrize(("backend", "shards"), [("valkey", 1), ("redis", 2)])
@pytest.mark.usefixtures("silent")
def test_any_life_of_a_delivery(backend: Backend, shards: int) -> None:
    config = StoreConfig(chunk_size=4, shards=shards, alive_ttl=TAKEOVER, timeout=1e6)
    with backend_server(backend) as server:
        machine = type("Machine", (DeliveryMachine,), {"server": server, "config": config})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                report_multiple_bugs=False,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )


@pytest.mark.parametrize("backend", ["valkey", "redis"])
@pytest.mark.usefixtures("silent")
def test_a_device_that_registers_again_is_sent_to_at_its_new_token_before_the_answer(backend: Backend) -> None:
    """One dispatcher is dead, so the registration is answered late: the other one sends meanwhile."""
    config = StoreConfig(chunk_size=4, shards=1, alive_ttl=TAKEOVER, timeout=1e6)
    with backend_server(backend) as server:
        machine = type("Machine", (DeliveryMachine,), {"server": server, "config": config})()
        try:
            machine.login(name="phone-1", user="dora", renew=False)
            machine.topic(name="phone-1", joins=True)
            machine.kill(who="a", again=False)
            machine.widen(who="b", room=0, live=False)
            machine.broadcast(to=ByTopic("news"), collapse="")
            (model,) = machine.pushes.values()
            for _ in range(2):
                machine.world.call(machine._expand(model))
            asked_at, sender = machine.world.clock.now, machine.dispatchers["b"]
            sender.process.loop.call_later(PATIENCE / 2, sender.provider.widen, 1)
            machine.login(name="phone-1", user="dora", renew=True)
            assert machine.world.clock.now - asked_at >= PATIENCE
            assert sender.provider.tokens == ["phone-1-1"]
            machine.holds()
        finally:
            machine.teardown()


@pytest.mark.parametrize(("erased", "read"), [(True, False), (True, True), (False, True)])
@pytest.mark.usefixtures("silent")
def test_a_late_answer_begins_no_second_life_of_its_delivery(erased: bool, read: bool) -> None:
    """A dispatcher stands still past its lease, with deliveries in flight. Their entry is added again by an erasure,
    which takes one of them out, or is taken over. `read`: another dispatcher sends from it when the answer comes, which
    is a refusal for now. Nothing but what the first one had in flight is in flight twice."""
    config = StoreConfig(chunk_size=4, shards=1, alive_ttl=TAKEOVER, timeout=1e6)
    with backend_server("valkey") as server:
        machine = type("Machine", (DeliveryMachine,), {"server": server, "config": config})()
        try:
            machine.kill(who="b", again=False)
            push = {"own": 1, "shared": {"ann-1"}, "phones": set(), "lane": "urgent", "collapse": "", "via": ""}
            machine.accept(**push, send_in=None, ttl=300.0, at_once=False, seed=0)
            machine.pass_time(DISPATCH.promote_every)
            assert len(machine.dispatchers["a"].provider.flights) == 2
            machine.pause("a")
            machine.pass_time(TAKEOVER)
            if erased:
                machine.erase(wait=True)
                machine.pass_time(PATIENCE)
            if read:
                machine.kill(who="b", again=True)
                machine.pass_time(DISPATCH.reclaim_every)
                assert len(machine.dispatchers["b"].provider.flights) == (1 if erased else 2)
            machine.answer(who="a", outcome=OUTCOMES[1], count=100, wait=0.0)
            machine.resume("a")
            machine.pass_time(RETRY.cap)
            machine.holds()
        finally:
            machine.teardown()
