"""The sentence that an operator reads first."""

from __future__ import annotations

import pytest

from pushsvc.ports.admin import Cause, LaneFigures, Rates
from pushsvc.runtime.state.verdict import verdict_of

NOW = 1_796_115_600_000
SINCE = "2026-12-01T08:51:00.000Z"
RATES = Rates(1204.0, 880.4, 0.0, 0.0)
NO_LANES: list[LaneFigures] = []


def held(route: str, waiting: int) -> Cause:
    return Cause(
        kind="held",
        severity="critical",
        what=route,
        app="shop",
        reason="InvalidProviderToken",
        cause="Apple refuses the signing key",
        remedy="check `key_id` and `team_id`, then reload",
        since=SINCE,
        waiting=waiting,
        routes=[route],
    )


def test_the_worst_cause_is_said_once_with_its_remedy() -> None:
    webhook = Cause(kind="webhook", severity="warning", what="shop", cause="it answers 502", remedy="see why")
    found = verdict_of([webhook, held("shop/apns", 8), held("shop/fcm", 2)], lanes=NO_LANES, rates=RATES, now=NOW)
    assert found.state == "critical"
    assert found.text == (
        "shop/apns, shop/fcm for 9 min: Apple refuses the signing key. 10 deliveries wait; none is lost. "
        "Check `key_id` and `team_id`, then reload. 1 more cause."
    )
    assert [cause.kind for cause in found.causes] == ["held", "webhook"]


def test_without_a_cause_all_is_well() -> None:
    found = verdict_of([], lanes=NO_LANES, rates=RATES, now=NOW)
    assert (found.state, found.text) == ("ok", "All is well: 880 deliveries a second; nothing waits.")


@pytest.mark.parametrize(
    ("waiting", "oldest", "text"),
    [
        (1, None, "1 delivery waits, none is due."),
        (1, 0.4, "1 delivery waits, none has been due for longer than 1 s."),
        (3000, 130.0, "3,000 deliveries wait, none has been due for longer than 3 min."),
    ],
)
def test_what_waits_is_counted_since_a_retry_is_young_again(waiting: int, oldest: float | None, text: str) -> None:
    lane = LaneFigures(lane="normal", waiting=waiting, oldest_age=oldest, in_rate=None, out_rate=None, through_in=None)
    found = verdict_of([], lanes=[lane], rates=Rates(None, None, None, None), now=NOW)
    assert found.text == f"All is well: {text}"


def test_one_delivery_that_waits_is_no_plural() -> None:
    found = verdict_of([held("shop/apns", 1)], lanes=NO_LANES, rates=RATES, now=NOW)
    assert " 1 delivery waits; none is lost. " in found.text
