"""The bell that wakes the processes of `jobs` for new work, so that they need not look for it often."""

from __future__ import annotations

from typing import Protocol


class Bell(Protocol):
    """One bell for all processes. Work that is missed is found at the next look all the same."""

    def ring(self) -> None:
        """Wake them soon, because there is work. Neither waits nor fails."""

    async def heard(self, seconds: float) -> bool:
        """Wait until it has rung since the last call, for `seconds` at most, and return whether it has. Raises
        `StoreUnavailable`."""
