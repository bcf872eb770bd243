"""How late a refusal is answered.

Released centrifuge-js reconnects without any delay after a refusal over SSE or HTTP streaming, and older clients come
back with the same expired token without end. So the answer waits, longer with every attempt of the same device or
address. Nothing is remembered of those that were not refused, and of the others at most `capacity`, the latest.

Source: https://github.com/centrifugal/centrifuge-js/issues/407, https://github.com/centrifugal/centrifuge-dart/issues/129
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class Slowdown:
    """Counts refusals by key: a device, or an address. Times are in seconds."""

    __slots__ = ("_attempts", "_capacity", "_first", "_forget", "_most")

    def __init__(
        self, *, first: float = 0.25, most: float = 10.0, forget: float = 60.0, capacity: int = 65_536
    ) -> None:
        """Wait `first` for the first refusal, twice as long for each that follows, and no longer than `most`.

        A key that is not refused for `forget` after its last wait begins again at `first`.
        """
        self._first = first
        self._most = most
        self._forget = forget
        self._capacity = capacity
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """By key: how many refusals, and until when they count. The key that was refused last is at the end."""

    def __len__(self) -> int:
        return len(self._attempts)

    def refused(self, keys: Iterable[str], now: float) -> float:
        """Note a refusal of all these keys, and return how long its answer waits: as long as the worst of them."""
        wait = 0.0
        for key in keys:
            attempts, until = self._attempts.pop(key, (0, 0.0))
            if now >= until:
                attempts = 0
            # A power beyond any sensible wait is not computed: attempts may go on for days.
            own = min(self._most, self._first * 2.0 ** min(attempts, 30))
            self._attempts[key] = attempts + 1, now + own + self._forget
            wait = max(wait, own)
        while len(self._attempts) > self._capacity:
            self._attempts.popitem(last=False)
        return wait

    def accepted(self, keys: Iterable[str]) -> None:
        """Forget the refusals of these keys."""
        for key in keys:
            self._attempts.pop(key, None)
