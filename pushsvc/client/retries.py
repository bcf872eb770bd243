"""When a call is made again, and after how long. Pure: chance is an argument."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

PASSING: Final = frozenset((408, 429, 500, 502, 503, 504))
"""Answers that another try may change."""


class Retries(Struct, frozen=True):
    """How long a call is tried. `Retries(0)` tries once."""

    patience: float = 60.0
    """Seconds from the first try in which another one may begin."""
    base: float = 0.25
    """Seconds before the second try; each further pause is twice as long."""
    cap: float = 10.0
    """The longest pause, unless the service asks for a longer one."""

    def pause(self, tries: int, elapsed: float, chance: float, *, asked: float | None) -> float | None:
        """Return the seconds to wait after this number of tries, or None to give up.

        `chance`, from 0 to 1, spreads the callers over the upper half of the pause; `asked` is `Retry-After`, which is
        never undercut; where it asks for none, the pause is that of a call without it.
        """
        pause = min(self.cap, self.base * 2.0 ** min(tries - 1, 30)) * (0.5 + chance / 2)
        pause = asked + pause / 4 if asked else pause
        return pause if elapsed + pause <= self.patience else None
