"""Which entries overtake which: a table."""

from __future__ import annotations

import pytest

from pushsvc.model.push import Lane, Route
from pushsvc.stages.dispatch.preemption import SPAN, Preemption

SHOP, NEWS = Route("shop", "apns"), Route("news", "apns")
BELOW_URGENT, BELOW_NORMAL = ("normal", "bulk"), ("bulk",)


@pytest.mark.parametrize(
    ("seen", "shop", "news"),
    [
        ([], (), ()),
        ([(SHOP, "urgent")], BELOW_URGENT, ("urgent", *BELOW_URGENT)),
        ([(SHOP, "normal")], BELOW_NORMAL, BELOW_URGENT),
        ([(SHOP, "bulk")], (), BELOW_NORMAL),
        ([(SHOP, "normal"), (NEWS, "normal")], BELOW_URGENT, BELOW_URGENT),
        ([(SHOP, "normal"), (NEWS, "normal"), (NEWS, "normal")], BELOW_URGENT, BELOW_URGENT),
        ([(NEWS, "normal"), (SHOP, "urgent")], BELOW_URGENT, ("urgent", *BELOW_URGENT)),
    ],
)
def test_what_is_overtaken(seen: list[tuple[Route, Lane]], shop: tuple[Lane, ...], news: tuple[Lane, ...]) -> None:
    preemption = Preemption()
    for route, lane in seen:
        preemption.note(route, lane, 10.0)
    assert preemption.overtaken(SHOP, 10.0 + SPAN / 2) == shop
    assert preemption.overtaken(NEWS, 10.0 + SPAN / 2) == news
    assert preemption.overtaken(NEWS, 10.1 + SPAN) == ()
