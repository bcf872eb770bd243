"""The seconds of a delivery's stages add up to the whole, at a provider and at the live channel, by one clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, strategies as st
from prometheus_client import REGISTRY

from pushsvc import telemetry
from pushsvc.live.config import LiveAppConfig, LiveConfig
from pushsvc.live.gateway import Gateway
from pushsvc.live.gateway.http import WaitingPoll
from pushsvc.live.protocol.tokens import Claims
from pushsvc.live.wheel import Wheel
from pushsvc.model.delivery import Arrival, Sent, Unavailable
from pushsvc.model.devices import Device
from pushsvc.model.push import Chunk, Fallback, Message, Platform, Route, Target
from pushsvc.ports.entries import EntryRef, Taken
from pushsvc.ports.live import LiveRoute, Position
from pushsvc.providers.live import open_provider

from .dispatch_fakes import START, FakeProvider, FakeQueue, memory_store, now_ms, wall_clock
from .test_dispatch_route import working
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
START_MS = int(START * 1000)


def seconds() -> dict[str, tuple[float, float]]:
    """By stage: how many deliveries, and the sum of their seconds."""

    (metric,) = telemetry.STAGE_SECONDS.collect()
    found = {(each.name, each.labels["stage"]): each.value for each in metric.samples}
    return {
        stage: (found[f"{metric.name}_count", stage], round(found[f"{metric.name}_sum", stage], 3))
        for stage in telemetry.STAGES
        if (f"{metric.name}_count", stage) in found
    }


def since(before: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """What has been added, less the stages to which nothing was."""
    none = (0.0, 0.0)
    added = {
        stage: (count - before.get(stage, none)[0], round(total - before.get(stage, none)[1], 3))
        for stage, (count, total) in seconds().items()
    }
    return {stage: figures for stage, figures in added.items() if figures[0]}


def queued(channel: Platform, *devices: str, entry: str = f"{START_MS + 2000}-0", **fields: Any) -> Taken:
    """An entry of a push that was to be sent at the beginning of time, and was queued two seconds later."""
    targets = tuple(Target(index, f"token-{name}", name) for index, name in enumerate(devices))
    message = Message(channel, b'{"data":{}}')
    own = Chunk(
        "p", "shop", channel, "normal", len(devices), START_MS, START_MS + 3_600_000, message, targets, **fields
    )
    return Taken(EntryRef("shop", 0, channel, "normal", entry), own)


async def test_the_stages_of_a_delivery_by_a_provider_add_up_to_the_whole() -> None:
    queue, provider = FakeQueue(entries=[queued("apns", "a", "b")]), FakeProvider(room=0)
    labels = {"app": "shop", "platform": "apns", "lane": "normal"}
    before = seconds(), REGISTRY.get_sample_value("pushsvc_delivery_duration_seconds_sum", labels) or 0.0
    await asyncio.sleep(3.0)
    async with working(queue, provider) as worker:
        await asyncio.sleep(1.5)
        provider.widen(10)
        await until(lambda: len(provider.open) == 2)
        await asyncio.sleep(START + 6.0 - wall_clock())
        provider.answer(Sent(status=200), 1)
        provider.answer(Unavailable(status=503))
        await until(lambda: sum(len(settled) for settled, _ in queue.settled) == 2)
        worker.flush_metrics()
    assert since(before[0]) == {
        "queued": (2, 4.0),
        "taken": (2, 2.0),
        "written": (2, 3.0),
        "answered": (2, 3.0),
    }
    whole = REGISTRY.get_sample_value("pushsvc_delivery_duration_seconds_sum", labels)
    assert round((whole or 0.0) - before[1], 3) == 12.0


async def test_the_stages_of_a_delivery_by_the_live_channel_add_up_to_the_whole() -> None:
    store = memory_store()
    await store.registry.put_many("shop", [Device(id="phone", platform="apns", token="0" * 64)])
    live = store.live

    async def confirm(app: str, ended: Sequence[Arrival]) -> None:
        pass

    loop = asyncio.get_running_loop()
    config = LiveConfig(apps={"shop": LiveAppConfig(secret="s" * 40)})
    gateway = Gateway(config, live, confirm, Wheel(loop.time), wall=wall_clock)
    await gateway.signs.give()
    member = WaitingPoll(Claims("shop", "phone", 0.0), "192.0.2.1")
    gateway.add(member)
    connected = await live.connect("shop", "phone", LiveRoute(gateway.id, member.number), issued_at=now_ms())
    acking = asyncio.create_task(gateway.acks.run())

    append_all = live.append_all

    async def slow(*arguments: Any) -> Any:
        await asyncio.sleep(1.5)
        return await append_all(*arguments)

    live.append_all = slow  # type: ignore[assignment, method-assign]  # the store takes its time
    then = (Fallback("apns", Message("apns", b"{}")),)
    queue = FakeQueue(entries=[queued("live", "phone", home="apns", fallbacks=then)])
    before = seconds(), REGISTRY.get_sample_value("pushsvc_live_ack_seconds_sum") or 0.0
    await asyncio.sleep(3.0)
    opened = open_provider(Route("shop", "live"), live=live, arrivals=store.arrivals, ack_within=10.0, clock=now_ms)
    async with opened as provider, working(queue, provider) as worker:
        await until(lambda: queue.settled)
        worker.flush_metrics()
        assert since(before[0]) == {}, "whether the device has it is not known yet"
        for item in (await live.inbox(gateway.id).receive(0)).items:
            await gateway._take(item)
        await asyncio.sleep(START + 6.0 - wall_clock())
        position = Position(connected.page.epoch, 1)  # type: ignore[union-attr]  # it is not refused
        for _ in range(2):
            assert (await gateway.acks.ack("shop", "phone", position)).fault == ""
    acking.cancel()
    assert since(before[0]) == {
        "queued": (1, 2.0),
        "taken": (1, 1.0),
        "written": (1, 1.5),
        "acked": (1, 1.5),
    }
    assert round((REGISTRY.get_sample_value("pushsvc_live_ack_seconds_sum") or 0.0) - before[1], 3) == 6.0


INSTANT = st.integers(START_MS - 5000, START_MS + 5000)


@given(st.lists(st.tuples(INSTANT, st.tuples(INSTANT, INSTANT), INSTANT, INSTANT), min_size=1, max_size=20))
def test_clocks_that_differ_make_no_stage_negative(deliveries: list[telemetry.Instants]) -> None:
    before = seconds()
    stages = telemetry.StageSeconds()
    stages.passed(Counter(deliveries), "answered")
    stages.flush()
    added = since(before)
    assert {count for count, _ in added.values()} == {len(deliveries)}
    assert all(total >= 0 for _, total in added.values())
    wholes = sum(max(start, *taken, *rest) - start for start, taken, *rest in deliveries) / 1000
    assert abs(sum(total for _, total in added.values()) - wholes) < 0.01
