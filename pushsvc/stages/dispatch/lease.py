"""The lease of a process: whether it may still send what it holds, by its own clock.

Other processes take over what a process holds once its sign of life in the store has expired. A process that was
stopped (SIGSTOP, a frozen cgroup, a virtual machine that is moved) or cut off from the store does not notice this by
itself, so it checks before it submits. The lease begins before the sign was sent, so that it ends here before it ends
in the store. A virtual machine whose clocks stand still with it learns of its pause from the store, with its next sign.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Lease:
    """The right of a process to send what it holds: it lasts `span` seconds from each renewal, and lapses then.

    `generation` increases each time that it lapses: what was asked of the store in an earlier generation may belong to
    another.
    """

    def __init__(self, span: float, clock: Callable[[], float], give_up: Callable[[], None]) -> None:
        """Begin without a lease. `give_up` is called as soon as one is found to have lapsed."""
        self.clock = clock
        self.generation = 0
        self._span = span
        self._until = float("-inf")
        self._lapsed = True
        self._give_up = give_up
        self._renewed = asyncio.Event()

    @property
    def holds(self) -> bool:
        """Whether something may be submitted now."""
        if self.clock() < self._until:
            return True
        if not self._lapsed:
            self._lapsed = True
            self.generation += 1
            self._give_up()
        return False

    def lapse(self) -> None:
        """Let it lapse now, because the store has reported that the last sign of life was over."""
        self._until = float("-inf")
        _ = self.holds

    def renew(self, asked_at: float) -> None:
        """Record that a sign of life was stored, which was sent at `asked_at` or later."""
        _ = self.holds  # what was held when it lapsed is not held again by the renewal
        self._until = max(self._until, asked_at + self._span)
        self._lapsed = self.clock() >= self._until
        if not self._lapsed:
            self._renewed.set()

    async def regained(self) -> None:
        """Wait until something may be submitted: at the start for the first sign of life, later for the next one."""
        while not self.holds:
            self._renewed.clear()
            await self._renewed.wait()
