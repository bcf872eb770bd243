"""A loop in which the process is paused when a test says so."""

from __future__ import annotations

import selectors

import pytest

from .transport_server import LOOP


class _Selector(selectors.DefaultSelector):
    """Its next wait is over after a pause of the process (SIGSTOP), without a look, as the time of the wait is over."""

    def __init__(self) -> None:
        super().__init__()
        self.pause = self.paused = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.pause:
            return super().select(timeout)
        self.paused, self.pause = self.paused + self.pause, 0.0
        return []


class PausedLoop(LOOP):
    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return super().time() + self.selector.paused


paused = pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": PausedLoop})], ids=["paused"])
