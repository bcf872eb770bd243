"""The verdict on what a simulated phone has shown."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from pushsvc.lab.phones.shown import Hole, Shown


class Verdict(Struct, frozen=True):
    """Whether a phone has shown what it was sent: each push once, in order, and no hole that was not announced."""

    missing: tuple[str, ...] = ()
    """Pushes that were not shown."""
    foreign: tuple[str, ...] = ()
    """Pushes that were shown and not sent to it."""
    late: tuple[str, ...] = ()
    holes: tuple[Hole, ...] = ()

    @property
    def holds(self) -> bool:
        """Return whether nothing is wrong."""
        return not (self.missing or self.foreign or self.late or self.holes)

    def __str__(self) -> str:
        parts = [f"{name} {', '.join(map(str, found))}" for name, found in _named(self) if found]
        return "; ".join(parts) or "received once, in order"


def judge(sent: Sequence[str], shown: Shown) -> Verdict:
    """Compare what a phone was sent, in any order, with what it has shown."""
    expected = set(sent)
    return Verdict(
        missing=tuple(push for push in sent if push not in shown.pushes),
        foreign=tuple(push for push in shown.pushes if push not in expected),
        late=tuple(shown.late),
        holes=tuple(shown.holes),
    )


def _named(verdict: Verdict) -> list[tuple[str, Sequence[object]]]:
    return [
        ("missing", verdict.missing),
        ("not sent to it", verdict.foreign),
        ("late", verdict.late),
        ("offsets never received", verdict.holes),
    ]
