"""One clock for all: Redis' own, measured, whatever the wall clocks of the machines say."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc.background import boot_clock
from pushsvc.errors import StoreUnavailable
from pushsvc.store.link.clock import LOOK, StoreClock

from .virtual_time import VirtualLoop

LOOP = VirtualLoop
REDIS = 1_700_000_000.0


@given(
    wrong_by=st.floats(-1e7, 1e7),
    there=st.floats(0, 0.05),
    back=st.floats(0, 0.05),
    steady=st.floats(0, 1e7),
)
def test_it_is_as_far_from_redis_as_the_answer_took_at_most(
    wrong_by: float, there: float, back: float, steady: float
) -> None:
    now = [steady]
    clock = StoreClock(lambda: now[0])
    clock.learn(REDIS, steady, steady)
    clock.learn(REDIS + wrong_by + there, steady, steady + there + back)
    now[0] = steady + there + back
    truly = REDIS + wrong_by + there + back
    assert abs(clock.seconds() - truly) <= there + back + 1e-3
    assert abs(clock() / 1000 - clock.seconds()) <= 0.002


@pytest.mark.parametrize("off", [3600.0, -3600.0])
async def test_a_wall_clock_that_is_wrong_or_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    monkeypatch.setattr("time.time", lambda: REDIS + off)

    loop = asyncio.get_running_loop()
    clock = StoreClock(loop.time)
    away = [False]

    async def ask(command: str) -> Any:
        assert command == "TIME"
        if away[0]:
            raise StoreUnavailable("gone")
        now = REDIS + loop.time() + ahead[0]
        return b"%d" % int(now), b"%d" % int(now % 1 * 1e6)

    ahead = [0.0]
    await clock.measure(ask)
    assert clock() == pytest.approx(REDIS * 1000, abs=2)
    keeping = asyncio.create_task(clock.keep(ask))
    monkeypatch.setattr("time.time", lambda: REDIS - off)
    await asyncio.sleep(100.0)
    assert clock() == pytest.approx((REDIS + 100) * 1000, abs=2)
    away[0] = True
    await asyncio.sleep(100.0)
    assert clock() == pytest.approx((REDIS + 200) * 1000, abs=2)
    # The machine slept for an hour: its steady clock did not go on, Redis' did.
    away[0], ahead[0] = False, 3600.0
    await asyncio.sleep(LOOK + 0.1)
    assert clock() == pytest.approx((REDIS + 3600 + 200 + LOOK + 0.1) * 1000, abs=2)
    keeping.cancel()


def test_what_expired_while_the_machine_was_suspended_has_expired_at_once() -> None:
    """Of the clocks of Linux the one since the boot alone counts a suspension: no measurement is waited for."""
    assert boot_clock.args == (time.CLOCK_BOOTTIME,)
    assert inspect.signature(StoreClock).parameters["steady"].default is boot_clock


def test_a_quick_answer_is_not_given_up_for_a_slow_one() -> None:
    now = [0.0]
    clock = StoreClock(lambda: now[0])
    clock.learn(REDIS + 0.001, 0.0, 0.001)
    now[0] = 5.04
    clock.learn(REDIS + 5.04, 5.0, 5.04)  # It came back at once, and took its time to get there.
    assert clock.seconds() == pytest.approx(REDIS + 5.04, abs=0.002)
    now[0] = 10_000.0
    clock.learn(REDIS + 10_000.02, 10_000.0, 10_000.04)  # By now the clocks may have drifted apart by more than that.
    assert clock.seconds() == pytest.approx(REDIS + 10_000.0, abs=0.001)


def test_a_slow_answer_counts_only_where_it_proves_that_we_are_wrong() -> None:
    clock = StoreClock(lambda: 0.0)
    clock.learn(REDIS, 0.0, 0.0)
    clock.learn(REDIS + 0.4, 0.0, 1.0)
    assert clock.seconds() == REDIS
    clock.learn(REDIS + 60.0, 0.0, 1.0)
    assert clock.seconds() == pytest.approx(REDIS + 59.5)
