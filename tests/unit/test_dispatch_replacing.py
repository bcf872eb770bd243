"""Which of two pushes with the same `collapse` is known to be the later one in a process that sends both."""

from __future__ import annotations

import msgspec

from pushsvc.model.push import Chunk
from pushsvc.stages.dispatch.replacing import AHEAD, Replacing

from .dispatch_fakes import chunk

NOW, HOUR = 1_700_000_000_000, 3_600_000


def message(since: int, name: str) -> Chunk:
    plain = chunk("t", name=name)
    own = msgspec.structs.replace(plain.message, collapse="order", since=since)
    return msgspec.structs.replace(plain, message=own)


def test_what_is_older_than_what_was_sent_ends_and_what_was_sent_before_the_clock_was_set_back_ends_nothing() -> None:
    known = Replacing()

    def ends(since: int, now: int, name: str = "p") -> bool:
        own = message(since, name)
        ahead, behind = known.split(own, own.targets, now)
        assert ahead + behind == own.targets
        return bool(behind)

    def sent(since: int, now: int, name: str = "p") -> None:
        own = message(since, name)
        known.note(own, own.targets[0], now)

    sent(NOW + HOUR, NOW + HOUR)
    assert ends(NOW, NOW + HOUR)
    assert not ends(NOW, NOW)
    sent(NOW + 1, NOW)
    assert ends(NOW, NOW)
    sent(NOW + HOUR, NOW)  # again: where it belongs is not known
    assert ends(NOW, NOW)
    assert not ends(NOW + 2, NOW + 2 * HOUR)
    sent(NOW + AHEAD, NOW)  # by another clock
    assert ends(NOW + 2, NOW)
    assert ends(NOW + AHEAD, NOW, "o")
    assert not ends(NOW + AHEAD, NOW, "q")
