"""Recent answers and suppressions of the twin in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pushsvc.model.devices import Device
from pushsvc.model.push import Platform, Route
from pushsvc.ports.entries import Revoked, token_mark
from pushsvc.rules.freeze import Slots

from .state import State


class MemoryAnswers:
    """`RecentAnswers` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def read(self, app: str, platform: Platform, first: int, last: int) -> Slots:
        counts = self._state.answers[Route(app, platform)]
        return {slot: answers for slot, answers in counts.items() if first <= slot <= last}

    async def release(self, app: str, platform: Platform, until: int) -> None:
        raise NotImplementedError

    async def released(self, app: str) -> dict[Platform, int]:
        return {}


class MemorySuppressions:
    """`Suppressions` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def add(self, app: str, tokens: Sequence[tuple[Platform, str, int]]) -> None:
        self._state.suppressed |= {(app, platform, token): at for platform, token, at in tokens}
        self._state.revoke(app, Revoked(tokens=frozenset(token_mark(token) for _, token, _ in tokens)))

    async def known(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        return sum(
            (app, route, token) in self._state.suppressed
            for platform, token in tokens
            for route in self._state.config.addresses.routes_of(platform)
        )

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        found = [
            self._state.suppressed.pop((app, route, token), None)
            for platform, token in tokens
            for route in self._state.config.addresses.routes_of(platform)
        ]
        return sum(at is not None for at in found)

    async def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        self._state.lift(app, devices, always=always)
