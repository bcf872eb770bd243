"""The flow of an app: noted once, and shown in steps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pushsvc import telemetry
from pushsvc.errors import StoreUnavailable
from pushsvc.ports.figures import SLOT, FlowNote
from pushsvc.runtime.state import admin, flow
from pushsvc.runtime.state.flow_history import FlowHistory

NAMES = ("accepted", "ended:apns:sent", "ended:fcm:failed", "out:bulk", "waiting:bulk", "took:apns:0:0.1")


class LossyFlow:
    """A `Flow` that keeps the notes that it gets, and loses its answers on demand."""

    def __init__(self) -> None:
        self.notes: dict[str, FlowNote] = {}
        self.received: list[str] = []
        self.loses = False
        self.slots: dict[int, dict[str, int]] = {}
        self.read_at_once: list[int] = []

    @property
    def slot(self) -> int:
        return 7

    async def note(self, note: FlowNote) -> None:
        self.received.append(note.mark)
        self.notes[note.mark] = note
        if self.loses:
            raise StoreUnavailable("lost")

    async def note_waiting(self, apps: Collection[str]) -> None:
        raise AssertionError("nothing serves here")

    async def read(self, app: str, first: int, last: int) -> dict[int, dict[str, int]]:
        self.read_at_once.append(last + 1 - first)
        return {slot: own for slot, own in self.slots.items() if first <= slot <= last}

    def accepted(self, app: str) -> int:
        return sum(note.counts.get(app, {}).get("accepted", 0) for note in self.notes.values())


async def test_what_was_counted_is_noted_once_also_where_an_answer_is_lost() -> None:
    store = LossyFlow()
    await flow.note(store)  # what earlier tests have counted
    for lost in (False, True, True, False, False):
        telemetry.ACCEPTED.labels("flow").inc(3)
        store.loses = lost
        await flow.note(store)
    assert store.accepted("flow") == 15
    assert len(store.received) == len(store.notes) + 2, "a note without an answer is repeated before another one"
    assert len({note.process for note in store.notes.values()}) == 1


def naive(slots: Mapping[int, Mapping[str, int]], first: int, per: int, points: int, name: str) -> list[int | None]:
    """A step by step sum; a level is that of the last slot."""
    steps = [[slots[at] for at in range(first + n * per, first + (n + 1) * per) if at in slots] for n in range(points)]
    if name.startswith("waiting:"):
        return [own[-1].get(name) if own else None for own in steps]
    return [sum(each.get(name, 0) for each in own) if own else None for own in steps]


@pytest.mark.parametrize(("span", "step"), [(600, 10), (3600, 60), (86_400, 3600), (7200, 700), (86_400, 10)])
def test_the_history_is_summed_piece_by_piece(span: int, step: int) -> None:
    chance = random.Random(span + step)
    points, per = span // step, step // SLOT
    last = 1_000_000
    first = last - points * per
    store = LossyFlow()
    for slot in range(first, last):
        if chance.random() < 0.1:
            names = [name for name in NAMES if chance.random() < 0.8]
            store.slots[slot] = {name: chance.randrange(5) for name in names}
    clock = SimpleNamespace(flow=store, clock=lambda: last * SLOT * 1000 + 1)
    administration = admin.StoreAdministration(cast(Any, None), cast(Any, clock), cast(Any, None))
    found = asyncio.run(administration.rates("shop", span=span, step=step))
    assert max(store.read_at_once) <= admin.PIECE
    assert sum(store.read_at_once) == points * per
    shown = {(each.name, each.platform, each.lane): each.values for each in found.series}
    assert shown == {
        ("accepted", "", ""): naive(store.slots, first, per, points, "accepted"),
        ("sent", "apns", ""): naive(store.slots, first, per, points, "ended:apns:sent"),
        ("failed", "fcm", ""): naive(store.slots, first, per, points, "ended:fcm:failed"),
        ("out", "", "bulk"): naive(store.slots, first, per, points, "out:bulk"),
        ("waiting", "", "bulk"): naive(store.slots, first, per, points, "waiting:bulk"),
    }
    assert (found.step, found.points) == (step, points)


def test_a_history_without_counts_has_no_series() -> None:
    history = FlowHistory(0, 60, 3)
    history.add({0: {"took:apns:0:0.1": 1}})
    assert history.document().series == []
