"""A route in trouble, in virtual time: nothing is lost, nothing ends that need not, and the provider is not stormed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from pushsvc.model.delivery import Delivery, Misconfigured, Outcome, Sent, Throttled, Unavailable
from pushsvc.model.push import Lane, Message, Platform, Push, Route, Target
from pushsvc.ports.provider import OnOutcome
from pushsvc.rules.policy import RetryPolicy
from pushsvc.runtime.plans import retry_policy
from pushsvc.settings.schema import RetrySettings
from pushsvc.stages.dispatch.config import DispatchConfig

from .dispatch_fakes import FakeProvider, counts as counts_of, many, memory_store, push
from .test_dispatch_route import rows, until_ended, working
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
DEFAULTS = DispatchConfig(retry=retry_policy(RetrySettings()))


class Weather(FakeProvider):
    """A provider that answers each request after `seconds` by `says`, and notes when each came."""

    def __init__(self, platform: Platform, *, room: int = 1000) -> None:
        super().__init__(Route("shop", platform), room=room)
        self.seconds = 0.02
        self.came: list[float] = []
        self.weather: Outcome | None = None
        """What everything is answered; None: accepted."""

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        loop = asyncio.get_running_loop()
        assert self.room > 0, "submitted without room"
        self.came.append(loop.time())
        self.submitted.append(delivery)
        own = (delivery, on_outcome)
        self.open.append(own)
        weather = self.weather
        silent = isinstance(weather, Unavailable) and weather.reason == "timeout"
        loop.call_later(10.0 if silent else self.seconds, self._back, own, weather)

    def _back(self, own: tuple[Delivery, OnOutcome], weather: Outcome | None) -> None:
        self.open.remove(own)
        said = self.says(own[0]) if self.says is not None else weather
        own[1](own[0], said or Sent(status=200))
        for wake in self._wakes:
            wake()

    def between(self, since: float, until: float) -> int:
        """Requests that came in that span."""
        return sum(since <= at < until for at in self.came)


SERVER_ERROR = Unavailable(status=503, reason="UNAVAILABLE")
SILENCE = Unavailable(reason="timeout", maybe_sent=True)
CUT = Unavailable(reason="connection_lost", maybe_sent=True)
TOTAL = 10_000
OUTAGE = 600.0


@pytest.mark.parametrize("platform", ["apns", "fcm"])
@pytest.mark.parametrize("trouble", [SERVER_ERROR, SILENCE, CUT], ids=["503", "silence", "cut"])
async def test_ten_minutes_of_trouble_end_no_delivery(
    platform: Platform, trouble: Unavailable, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather(platform)
    provider.weather = trouble
    async with working(store.queue, provider, DEFAULTS) as worker:
        began = loop.time()
        for part in range(20):
            await store.pushes.accept(
                push(f"p{part}", *many(f"{part}", TOTAL // 20), platform=platform, ttl=28 * 86400.0)
            )
        await until(lambda: worker.held)
        shown = loop.time() - began
        await asyncio.sleep(began + OUTAGE - loop.time())
        provider.weather = None
        over = loop.time()
        for part in range(20):
            assert await until_ended(store, f"p{part}", 2000.0) == {"total": TOTAL // 20, "sent": TOTAL // 20}
        seconds = loop.time() - over
        first, later = provider.between(0, 60), provider.between(60, over)
        print(f"{platform} {trouble.status or trouble.reason}: shown after {shown:.1f} s, {first} requests in the")
        print(f"first minute, {later / (over - 60):.2f} a second after it, all sent {seconds:.0f} s after the end")
        # What was in flight, what came back of it, and few probes.
        assert first <= provider.window + 200
        assert later / (over - 60) <= 1.0
        assert provider.between(over, over + 1.0) <= 64, "it opens step by step"
        # In flight at the beginning, they wait as long as the vendor says: Apple, 15 minutes after a 5xx.
        assert seconds <= (1200.0 if platform == "apns" and trouble.status else 60.0)
        assert not worker.held
    attempts: Counter[int] = Counter()
    for part in range(20):
        attempts.update(row[2] for row in (await rows(store, f"p{part}")).values())
    assert attempts.total() == TOTAL
    assert sum(count for tries, count in attempts.items() if tries > 1) <= 10


@pytest.mark.parametrize("trouble", [SERVER_ERROR, CUT], ids=["503", "cut"])
@pytest.mark.parametrize(("devices", "within"), [(4, 10.0), (1, 70.0)])
async def test_a_provider_in_trouble_is_named_though_few_requests_met_it(
    devices: int, within: float, trouble: Unavailable
) -> None:
    store, provider = memory_store(), Weather("apns")
    provider.weather = trouble
    async with working(store.queue, provider, DEFAULTS) as worker:
        await store.pushes.accept(push("few", *many("t", devices), ttl=28 * 86400.0))
        await asyncio.sleep(within)
        assert str(trouble.status or trouble.reason) in worker.held["shop/apns"]
        provider.weather = None
        await store.pushes.accept(push("next", "u"))
        assert await until_ended(store, "next") == {"total": 1, "sent": 1}
        assert worker.held == {}


async def test_a_timer_that_fires_before_its_time_does_not_end_the_probes() -> None:
    """A loop's clock may be as coarse as uvloop's, which rounds timers to 1 ms: the pump asks for the instant again."""
    loop = asyncio.get_running_loop()
    call_at, asked = loop.call_at, set()

    def early(when: float, callback: Callable[..., object], *rest: Any, **named: Any) -> asyncio.TimerHandle:
        at = when if when in asked else when - 0.0004
        asked.add(when)
        return call_at(at, callback, *rest, **named)

    loop.call_at = early  # type: ignore[method-assign,assignment]
    store, provider = memory_store(), Weather("apns", room=10)
    provider.weather = SERVER_ERROR
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("p", *many("p", 100), platform="apns"))
        await asyncio.sleep(200.0)
        now = loop.time()
        assert provider.between(now - 35.0, now) >= 1
        provider.weather = None
        await until(lambda: provider.between(now, loop.time()) >= 70)
        assert loop.time() - now < 40.0


@pytest.mark.parametrize("retry_after", [5.0, None])
async def test_a_throttle_of_the_whole_route_slows_everything_to_probes(retry_after: float | None) -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm", room=500)
    provider.weather = Throttled(status=429, reason="QUOTA_EXCEEDED", retry_after=retry_after, scope="route")
    config = DispatchConfig(retry=RetryPolicy(throttled={"fcm": 60.0}))
    async with working(store.queue, provider, config) as worker:
        await store.pushes.accept(push("p", *many("t", 5000), platform="fcm", ttl=1e6))
        await until(lambda: worker.held)
        assert "429 QUOTA_EXCEEDED" in worker.held["shop/fcm"]
        await asyncio.sleep(max(0.0, 12.0 - loop.time()))
        assert provider.between(0, 0.5) <= 500
        assert provider.between(0.5, 12.0) <= (3 if retry_after else 0)
        provider.weather = None
        assert await until_ended(store, "p") == {"total": 5000, "sent": 5000}
    assert {row[2] for row in (await rows(store, "p")).values()} <= {1}


async def test_a_provider_that_throttles_one_token_after_the_other_is_probed() -> None:
    """Apple has no word for a throttle of everything: TooManyRequests speaks of a device token."""
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("apns", room=500)
    provider.weather = Throttled(status=429, reason="TooManyRequests", retry_after=1.0)
    async with working(store.queue, provider, DEFAULTS) as worker:
        await store.pushes.accept(push("p", *many("t", 5000), platform="apns", ttl=1e6))
        await store.pushes.accept(push("q", *many("u", 100), platform="apns", ttl=1e6))
        await until(lambda: worker.held)
        assert "429 TooManyRequests" in worker.held["shop/apns"]
        await asyncio.sleep(max(0.0, 12.0 - loop.time()))
        assert provider.between(0, 12.0) <= 500 + 12 / 0.25
        provider.weather = None
        assert await until_ended(store, "p") == {"total": 5000, "sent": 5000}
        assert await until_ended(store, "q") == {"total": 100, "sent": 100}
    assert {row[2] for row in (await rows(store, "q")).values()} == {1}


async def test_a_lone_delivery_outlives_an_outage_and_its_doubt_has_an_end() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm")
    provider.weather = SERVER_ERROR
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("alone", "t", platform="fcm", ttl=28 * 86400.0))
        await asyncio.sleep(1800.0)
        assert await counts_of(store, "alone") == {"total": 1, "retrying": 1}
        provider.weather = None
        assert await until_ended(store, "alone", 2000.0) == {"total": 1, "sent": 1}
        provider.weather = SERVER_ERROR
        await store.pushes.accept(push("bad", "u", platform="fcm", ttl=28 * 86400.0))
        assert await until_ended(store, "bad", 20_000.0) == {"total": 1, "failed": 1}
    assert loop.time() < 30_000


async def test_one_bad_push_costs_the_others_nothing_and_ends() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm")
    provider.says = lambda delivery: SERVER_ERROR if delivery.chunk.push_id == "bad" else Sent(status=200)
    waits = []
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("bad", *many("bad", 500), platform="fcm", ttl=1e6))
        for number in range(400):
            name, at = f"good {number}", loop.time()
            await store.pushes.accept(push(name, f"good {number}", platform="fcm", lane="urgent"))
            assert await until_ended(store, name) == {"total": 1, "sent": 1}
            waits.append(loop.time() - at)
            await asyncio.sleep(0.5)
        assert await until_ended(store, "bad", 5000.0) == {"total": 500, "failed": 500}
    assert sorted(waits)[len(waits) // 2] <= 0.1
    assert max(waits) <= 0.5


async def test_one_push_that_is_refused_like_bad_credentials_costs_the_others_nothing_and_ends() -> None:
    """What stands before FCM may answer one request 404 without a word of FCM's own."""
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm")
    refused = Misconfigured(status=404, reason="unknown_404")
    provider.says = lambda delivery: refused if delivery.chunk.push_id == "bad" else Sent(status=200)
    waits = []
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("bad", "bad", platform="fcm", ttl=28 * 86400.0))
        for number in range(400):
            name, at = f"good {number}", loop.time()
            await store.pushes.accept(push(name, f"good {number}", platform="fcm", lane="urgent"))
            assert await until_ended(store, name) == {"total": 1, "sent": 1}
            waits.append(loop.time() - at)
            await asyncio.sleep(0.5)
        assert await until_ended(store, "bad", 5000.0) == {"total": 1, "failed": 1}
    assert max(waits) <= 0.5


async def test_a_push_that_chose_what_is_refused_ends_and_holds_nothing() -> None:
    store, provider = memory_store(), Weather("apns")
    refused = Misconfigured(status=403, reason="InvalidProviderToken", chosen=True)
    provider.says = lambda delivery: refused if delivery.chunk.push_id == "chose" else Sent(status=200)
    async with working(store.queue, provider, DEFAULTS) as worker:
        await store.pushes.accept(push("chose", *many("c", 50), ttl=28 * 86400.0))
        for number in range(20):
            await store.pushes.accept(push(f"p{number}", f"t{number}"))
            assert await until_ended(store, f"p{number}") == {"total": 1, "sent": 1}
            assert worker.held == {}
        assert await until_ended(store, "chose", 5000.0) == {"total": 50, "failed": 50}


async def test_what_waits_on_a_held_route_ends_with_its_ttl() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm", room=50)
    provider.weather = SERVER_ERROR
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("long", *many("l", 100), platform="fcm", ttl=1e6))
        await store.pushes.accept(push("short", *many("s", 100), platform="fcm", ttl=30.0))
        assert await until_ended(store, "short") == {"total": 100, "expired": 100}
        assert loop.time() <= 32.0


async def test_a_short_life_outlasts_a_short_trouble() -> None:
    """Apple's quarter of an hour after a 5xx is longer than the life of a code to log in with."""
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("apns", room=50)
    provider.weather = Unavailable(status=503, reason="ServiceUnavailable")
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("codes", *many("c", 100), ttl=300.0))
        await asyncio.sleep(5.0)
        provider.weather = None
        assert await until_ended(store, "codes") == {"total": 100, "sent": 100}
        assert loop.time() < 300.0
    # Each has gone once more, and one now and then as a probe.
    assert len(provider.came) <= 170


def apple(delivery: Delivery) -> bool:
    return delivery.target.token.startswith("apple")


async def test_trouble_of_a_part_holds_that_part_alone_is_named_and_ends_by_one_probe() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm")
    refused = Misconfigured(status=401, reason="THIRD_PARTY_AUTH_ERROR", part="apple")
    provider.says = lambda delivery: refused if apple(delivery) else Sent(status=200)
    async with working(store.queue, provider, DEFAULTS) as worker:
        tokens = [*many("apple", 300), *many("android", 300)]
        await store.pushes.accept(push("p", *tokens, platform="fcm", ttl=1e6))
        await until(lambda: worker.held)
        assert worker.held == {"shop/fcm/apple": "THIRD_PARTY_AUTH_ERROR: look after THIRD_PARTY_AUTH_ERROR"}
        await asyncio.sleep(120.0)
        assert await counts_of(store, "p") == {"total": 600, "sent": 300, "retrying": 300}
        probes = sum(map(apple, provider.submitted)) - 300
        assert 1 <= probes <= 40
        await store.pushes.accept(push("android", *many("android", 100), platform="fcm"))
        assert await until_ended(store, "android") == {"total": 100, "sent": 100}
        corrected = loop.time()
        provider.says = None
        assert await until_ended(store, "p") == {"total": 600, "sent": 600}
        assert loop.time() - corrected <= 130.0
        assert worker.held == {}
    assert {row[2] for row in (await rows(store, "p")).values()} == {1}


async def test_a_part_that_has_its_own_connections_is_named_and_holds_nothing_else() -> None:
    store, provider, apart = memory_store(), Weather("apns"), Weather("apns")
    away = Unavailable(reason="unreachable", part="broadcasts")
    provider.parts = {"broadcasts": apart}
    provider.says = lambda delivery: away if delivery.target.token.startswith("channel") else Sent(status=200)
    apart.trouble = "broadcasts.example:443: connection refused"
    text = "connections to the provider break (broadcasts.example:443: connection refused): look after broadcasts"
    async with working(store.queue, provider, DEFAULTS) as worker:
        assert worker.held == {}, "connections are replaced within less than a second"
        await store.pushes.accept(push("b", *many("channel", 20), ttl=1e6))
        for number in range(20):
            await asyncio.sleep(1.0)
            await store.pushes.accept(push(f"p{number}", f"device{number}"))
            assert await until_ended(store, f"p{number}") == {"total": 1, "sent": 1}
        assert worker.held == {"shop/apns/broadcasts": f"unreachable: {text}"}
        apart.trouble, apart.silence = "", 5.0
        assert worker.held["shop/apns/broadcasts"].startswith("timeout: nothing at all comes")
        apart.silence, provider.says = 0.0, None
        assert worker.held == {}
        assert await until_ended(store, "b") == {"total": 20, "sent": 20}
    assert {row[2] for row in (await rows(store, "b")).values()} == {1}


async def test_a_part_that_is_corrected_at_once_is_released_soon() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm")
    provider.weather = Misconfigured(status=401, reason="THIRD_PARTY_AUTH_ERROR", part="apple")
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("p", *many("apple", 50), platform="fcm", ttl=1e6))
        await asyncio.sleep(3.5)
        provider.weather = None
        assert await until_ended(store, "p") == {"total": 50, "sent": 50}
        assert loop.time() <= 20.0


async def test_a_dry_run_that_asks_nobody_does_not_open_a_route() -> None:
    store, provider = memory_store(), Weather("apns")
    refused = Misconfigured(status=403, reason="InvalidProviderToken")
    provider.says = lambda delivery: Sent(reason="dry_run") if delivery.chunk.dry_run else refused
    async with working(store.queue, provider, DEFAULTS) as worker:
        await store.pushes.accept(push("p", *many("t", 5), ttl=1e6))
        await until(lambda: worker.held)
        await store.pushes.accept(
            Push(
                id="dry",
                app="shop",
                lane="urgent",
                created_at=0,
                expires_at=1 << 50,
                messages={"apns": Message("apns", b"{}")},
                targets={"apns": (Target(0, "d"),)},
                dry_run=True,
            )
        )
        assert await until_ended(store, "dry") == {"total": 1, "sent": 1}
        assert worker.held


async def test_retries_of_one_push_are_spread() -> None:
    store, provider = memory_store(), Weather("fcm")
    provider.says = lambda delivery: (
        SERVER_ERROR if delivery.chunk.turn == 1 and delivery.target.token.startswith("t") else Sent(status=200)
    )
    async with working(store.queue, provider, DEFAULTS, spread=True):
        tokens = [token for pair in zip(many("t", 60), many("ok", 60), strict=True) for token in pair]
        await store.pushes.accept(push("p", *tokens, platform="fcm", ttl=1e6))
        assert await until_ended(store, "p") == {"total": 120, "sent": 120}
    again = [at for at, each in zip(provider.came, provider.submitted, strict=True) if each.chunk.turn == 2]
    assert len(again) == 60
    assert min(again) >= 10.0
    assert len({round(at, 1) for at in again}) >= 10


def away_at(*spans: tuple[float, float]) -> bool:
    """Whether the provider is away now."""
    now = asyncio.get_running_loop().time()
    return any(since <= now < until for since, until in spans)


@pytest.mark.parametrize(
    "trouble",
    [SERVER_ERROR, SILENCE, Misconfigured(status=403, reason="InvalidProviderToken")],
    ids=["503", "silence", "refused"],
)
async def test_a_broadcast_that_was_taken_for_bad_after_a_short_outage_is_held_in_the_next_one(
    trouble: Outcome,
) -> None:
    store, provider = memory_store(), Weather("apns", room=100)
    provider.seconds = 1.0
    outages = (10.0, 13.0), (30.0, 3630.0)
    provider.says = lambda delivery: trouble if away_at(*outages) else Sent(status=200)
    async with working(store.queue, provider, DEFAULTS) as worker:
        await asyncio.sleep(9.0)
        await store.pushes.accept(push("all", *many("t", 3000), lane="bulk", ttl=6 * 3600.0))
        await asyncio.sleep(4.2)
        await store.pushes.accept(push("another", "u"))
        assert await until_ended(store, "another") == {"total": 1, "sent": 1}
        await asyncio.sleep(2.0)
        assert worker.held == {}, "what works ended the first outage at once"
        await asyncio.sleep(45.0 - asyncio.get_running_loop().time())
        assert worker.held.keys() == {"shop/apns"}
        assert provider.between(45.0, 3630.0) <= 150
        assert await until_ended(store, "all", 6000.0) == {"total": 3000, "sent": 3000}


OWN_ERROR = Unavailable(status=500, reason="INTERNAL")
OWN_TOPIC = Misconfigured(status=403, reason="Forbidden", chosen=True)


@pytest.mark.parametrize("answer", [OWN_ERROR, OWN_TOPIC], ids=["500", "topic"])
@pytest.mark.parametrize("lane", ["urgent", "normal"])
async def test_pushes_that_are_each_bad_keep_no_other_from_being_sent_after_an_outage(
    answer: Outcome, lane: Lane
) -> None:
    """One push a second is bad in itself; of those in other lanes, one each five seconds, each is sent."""
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("fcm", room=100)

    def says(delivery: Delivery) -> Outcome:
        if away_at((60.0, 75.0)):
            return SERVER_ERROR
        return answer if delivery.chunk.push_id.startswith("bad") else Sent(status=200)

    provider.says = says
    waits: list[float] = []

    async def send(number: int) -> None:
        at, name = loop.time(), f"good {number}"
        await store.pushes.accept(push(name, name, lane="normal" if lane == "urgent" else "bulk", platform="fcm"))
        assert await until_ended(store, name) == {"total": 1, "sent": 1}
        waits.append(loop.time() - at)

    async with working(store.queue, provider, DEFAULTS), asyncio.TaskGroup() as tasks:
        for number in range(900):
            name = f"bad {number}"
            await store.pushes.accept(push(name, name, lane=lane, platform="fcm", ttl=86400.0))
            if number % 5 == 0:
                tasks.create_task(send(number))
            await asyncio.sleep(1.0)
        assert await until_ended(store, "bad 100") == {"total": 1, "failed": 1}
    assert len(waits) == 180
    assert sorted(waits)[len(waits) // 2] <= 0.5
    assert max(waits) <= 100.0, "the outage, and a probe of each lane"


async def test_a_push_that_an_outage_met_is_probed_again_behind_others_that_are_bad() -> None:
    store, provider = memory_store(), Weather("fcm", room=100)
    bad = {f"bad {number}" for number in range(30)}
    provider.says = lambda delivery: (
        SERVER_ERROR if away_at((0.0, 20.0)) or delivery.chunk.push_id in bad else Sent(status=200)
    )
    async with working(store.queue, provider, DEFAULTS):
        await store.pushes.accept(push("good", "good", lane="urgent", platform="fcm", ttl=86400.0))
        await until(lambda: provider.came)
        for name in sorted(bad):
            await store.pushes.accept(push(name, *many(name, 50), lane="urgent", platform="fcm", ttl=86400.0))
        assert await until_ended(store, "good", 1200.0) == {"total": 1, "sent": 1}


async def test_dry_runs_that_ask_nobody_delay_no_probe() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), Weather("apns", room=100)
    unavailable = Unavailable(status=503, reason="ServiceUnavailable")

    def says(delivery: Delivery) -> Outcome:
        if delivery.chunk.dry_run:
            return Sent(reason="dry_run")
        return unavailable if away_at((0.0, 12.0)) else Sent(status=200)

    provider.says = says
    async with working(store.queue, provider, DEFAULTS) as worker:
        await asyncio.sleep(10.0)
        await store.pushes.accept(push("met it", *many("m", 6)))
        await asyncio.sleep(0.5)
        await store.pushes.accept(structs.replace(push("dry", *many("d", 1000)), dry_run=True))
        await asyncio.sleep(0.2)
        await store.pushes.accept(push("real", *many("r", 50), lane="urgent"))
        await until(lambda: worker.health.trouble is None)
        assert loop.time() <= 20.0
        assert await until_ended(store, "dry") == {"total": 1000, "sent": 1000}
        assert loop.time() <= 40.0, "they use up nothing of the rate at which the route opens"
        assert await until_ended(store, "real", 1200.0) == {"total": 50, "sent": 50}


async def test_a_push_that_met_trouble_before_takes_no_benefit_of_the_doubt_from_the_next() -> None:
    store, provider = memory_store(), Weather("fcm")
    provider.says = lambda delivery: SERVER_ERROR if away_at((0.0, 3900.0)) else Sent(status=200)
    async with working(store.queue, provider, DEFAULTS):
        await asyncio.sleep(100.0)
        await store.pushes.accept(push("earlier", "t", platform="fcm", ttl=30.0))
        await asyncio.sleep(3000.0)
        await store.pushes.accept(push("later", "u", platform="fcm", ttl=86400.0))
        assert await until_ended(store, "earlier") == {"total": 1, "expired": 1}
        assert await until_ended(store, "later", 4000.0) == {"total": 1, "sent": 1}


@pytest.mark.parametrize("part", ["", "apple"])
async def test_refusals_of_an_account_that_is_no_longer_used_hold_nothing(part: str) -> None:
    store, old, new = memory_store(), Weather("fcm", room=100), Weather("fcm", room=100)
    old.seconds = 5.0
    old.weather = Misconfigured(status=401, reason="UNAUTHENTICATED", part=part)
    async with working(store.queue, old, DEFAULTS) as worker:
        await store.pushes.accept(push("p", *many("t", 300), platform="fcm", ttl=86400.0))
        await until(lambda: len(old.open) >= 64)
        worker.use(new)
        while old.open or (await counts_of(store, "p")).keys() & {"queued", "retrying"}:
            assert worker.health.is_open
            assert worker.held == {}
            await asyncio.sleep(0.1)
        assert await counts_of(store, "p") == {"total": 300, "sent": 300}
    assert {row[2] for row in (await rows(store, "p")).values()} == {1}


@pytest.mark.parametrize(
    "trouble",
    [
        Throttled(status=429, reason="QUOTA_EXCEEDED", retry_after=1.0, scope="route"),
        Misconfigured(status=401, reason="UNAUTHENTICATED"),
    ],
    ids=["throttled", "refused"],
)
async def test_what_a_push_chose_and_is_refused_says_nothing_of_a_throttle_or_the_credentials(trouble: Outcome) -> None:
    store, provider = memory_store(), Weather("fcm", room=100)
    provider.says = lambda delivery: OWN_TOPIC if delivery.chunk.push_id == "chose" else trouble
    async with working(store.queue, provider, DEFAULTS) as worker:
        await store.pushes.accept(push("p", "t", platform="fcm", ttl=86400.0))
        await until(lambda: worker.held)
        await store.pushes.accept(push("chose", *many("c", 100), lane="urgent", platform="fcm", ttl=86400.0))
        for _ in range(200):
            await asyncio.sleep(1.0)
            assert trouble.reason in worker.held["shop/fcm"]
        probes = [delivery.chunk.push_id for delivery in provider.submitted]
        assert {"p", "chose"} == set(probes)
        assert len(probes) <= 15
