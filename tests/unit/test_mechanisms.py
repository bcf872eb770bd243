"""What several parts share: leases that are renewed, work until an event and in a pulse, attempts until Redis is back,
permits, instants as text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from pushsvc.background import lease_kept, pulse, unless
from pushsvc.errors import StoreUnavailable
from pushsvc.model.instants import UNITS, instant, parse_instant, parse_span
from pushsvc.model.rates import Rate
from pushsvc.rules.permits import PERMIT_LIFE, Permits
from pushsvc.stages.outage import LONGEST, Patience

from .virtual_time import VirtualLoop, run

LOOP = VirtualLoop

# --- a lease ----------------------------------------------------------------------------------------


def test_a_lease_is_renewed_while_the_block_runs_and_then_released() -> None:
    async def main() -> list[str]:
        said: list[str] = []
        answers: Iterator[bool | StoreUnavailable] = iter([True, StoreUnavailable("away"), True])

        async def renew() -> bool:
            said.append("renew")
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def release() -> None:
            said.append("release")
            raise StoreUnavailable("away")

        async with lease_kept(renew, release, lease=3.0, name="lease") as lost:
            await asyncio.sleep(3.5)
            assert not lost()
        return said

    assert run(main()) == ["renew"] * 3 + ["release"]


def test_a_lease_that_another_has_is_lost_and_not_asked_for_again() -> None:
    async def main() -> int:
        asked = 0

        async def renew() -> bool:
            nonlocal asked
            asked += 1
            return False

        async def release() -> None:
            pass

        async with lease_kept(renew, release, lease=3.0, name="lease") as lost:
            assert not lost()
            await asyncio.sleep(10.0)
            assert lost()
        return asked

    assert run(main()) == 1


# --- work until an event ----------------------------------------------------------------------------


async def test_work_ends_by_itself_or_is_cancelled_by_the_event() -> None:
    stop, ended = asyncio.Event(), []

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            ended.append(seconds)
            raise
        return "done"

    async def fails() -> None:
        raise ZeroDivisionError

    loop, before = asyncio.get_running_loop(), asyncio.all_tasks()
    loop.call_later(2.0, stop.set)
    assert await unless(stop, work(1.0)) == "done"
    assert await unless(stop, work(5.0)) is None
    assert ended == [5.0]
    assert loop.time() == pytest.approx(2.0)
    with pytest.raises(ZeroDivisionError):
        await unless(asyncio.Event(), fails())
    waiting = asyncio.create_task(unless(asyncio.Event(), work(9.0)))
    await asyncio.sleep(1.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == [5.0, 9.0]
    assert asyncio.all_tasks() == before


async def test_tasks_of_one_period_wake_together_and_a_timer_that_was_early_does_not_count_twice() -> None:
    loop, woke = asyncio.get_running_loop(), list[float]()

    async def beat(after: float, seconds: float) -> None:
        await asyncio.sleep(after)
        while True:
            await pulse(seconds)
            woke.append(round(loop.time(), 6))

    tasks = [asyncio.create_task(beat(*each)) for each in ((0.3, 1.0), (0.7, 1.0), (0.999, 1.0), (0.1, 2.0))]
    await asyncio.sleep(4.5)
    for task in tasks:
        task.cancel()
    assert woke == [1.0, 1.0, *[2.0] * 4, *[3.0] * 3, *[4.0] * 4]


# --- until Redis is back ----------------------------------------------------------------------------


def test_pauses_grow_to_the_longest_and_begin_anew_after_a_success() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        patience, pauses, fails = Patience("test"), [], 0
        while fails < 9:
            began = loop.time()
            async with patience:
                if fails != 8:
                    raise StoreUnavailable("away")
            pauses.append(round(loop.time() - began, 3))
            fails += 1
        began = loop.time()
        async with patience:
            raise StoreUnavailable("away")
        return [*pauses, round(loop.time() - began, 3)]

    assert run(main()) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, LONGEST, LONGEST, 0.0, 0.05]


def test_another_error_is_raised_at_once() -> None:
    async def main() -> None:
        async with Patience("test"):
            raise ValueError("a fault")

    with pytest.raises(ValueError, match="a fault"):
        run(main())


# --- permits ----------------------------------------------------------------------------------------


def test_permits_are_forgotten_when_their_life_is_over() -> None:
    permits = Permits(Rate(100, 1), most=3)
    assert permits.slot == 3
    assert Permits(Rate(100, 1)).slot == 5
    assert Permits(Rate(1, 60)).slot == 1
    permits.grant(3, 10.0)
    permits.spend(1)
    permits.grant(2, 10.0 + PERMIT_LIFE / 2)
    assert permits.left(10.0 + PERMIT_LIFE) == 4
    assert permits.left(10.0 + 1.5 * PERMIT_LIFE) == 0
    permits.grant(1, 20.0)
    assert permits.left(20.0) == 1


# --- instants ---------------------------------------------------------------------------------------


@given(st.integers(0, 253_402_300_799_000))
def test_an_instant_is_read_as_it_was_written(unix_ms: int) -> None:
    assert parse_instant(instant(unix_ms)) == unix_ms


@pytest.mark.parametrize(
    ("text", "as_if"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31t23:59:60.25z", "2017-01-01T00:00:00.250Z"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00Z"),
        ("2028-03-01T05:29:60+05:30", "2028-03-01T00:00:00Z"),
    ],
)
def test_a_leap_second_is_the_second_after_it(text: str, as_if: str) -> None:
    assert parse_instant(text) == parse_instant(as_if)


@pytest.mark.parametrize(
    "text",
    [
        *("2016-12-30T23:59:60Z", "2016-12-31T22:59:60Z", "2016-12-31T23:58:60Z", "2016-12-31T23:59:61Z"),
        *("2016-12-31T23:59:60+01:00", "9999-12-31T23:59:60Z", "2016-13-31T23:59:60Z"),
    ],
)
def test_a_second_that_is_no_leap_second_does_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match="is a date or time that does not exist"):
        parse_instant(text)


def test_beyond_the_calendar_is_its_end() -> None:
    assert instant(10**16) == "9999-12-31T23:59:59.000Z"


@given(st.integers(0, 999_999), st.sampled_from(sorted(UNITS)))
def test_a_span_is_a_number_and_a_unit(number: int, unit: str) -> None:
    assert parse_span(f"{number}{unit}") == number * UNITS[unit]


@pytest.mark.parametrize("text", ["", "2", "h", "2 h", "-2h", "1234567s", "2y", "\u0662h"])
def test_what_is_no_span_is_none(text: str) -> None:
    assert parse_span(text) is None
