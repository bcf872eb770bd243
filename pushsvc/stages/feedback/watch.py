"""What the recent answers of an app's routes say, and the log of frozen routes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from ... import telemetry
from ...model.delivery import Receipt
from ...model.push import Platform, Route
from ...ports.feedback import RecentAnswers
from ...rules.freeze import SLOT_MS, AnswerHealth, Freeze, health, slots_around
from .config import FeedbackConfig, FeedbackPorts


async def frozen_routes(
    answers: RecentAnswers, routes: Iterable[Route], config: FeedbackConfig, now: int
) -> dict[Route, Freeze]:
    """Return the routes whose pruning is frozen at `now` (Unix ms)."""
    routes = list(routes)
    apps = list(dict.fromkeys(route.app for route in routes))
    released = dict(zip(apps, await asyncio.gather(*map(answers.released, apps)), strict=True))
    asked = [route for route in routes if config.freezes(route, now, released[route.app])]
    span = slots_around(now, now, config.freeze)
    read = await asyncio.gather(*(answers.read(route.app, route.platform, *span) for route in asked))
    found = {route: health(slots, now, config.freeze).freeze for route, slots in zip(asked, read, strict=True)}
    return {route: freeze for route, freeze in found.items() if freeze is not None}


class Watch:
    def __init__(self, ports: FeedbackPorts, app: str, config: FeedbackConfig) -> None:
        self._ports = ports
        self._app = app
        self._config = config
        self._frozen: set[Platform] = set()
        self._log = telemetry.get_logger("feedback").bind(app=app)

    async def healths(self, receipts: Sequence[Receipt]) -> list[AnswerHealth]:
        slots: dict[Platform, set[int]] = {}
        for receipt in receipts:
            slots.setdefault(receipt.platform, set()).add(receipt.at // SLOT_MS)
        found: dict[tuple[Platform, int], AnswerHealth] = {}
        now, policy = self._ports.clock(), self._config.freeze
        released = await self._ports.answers.released(self._app)
        for platform, own in slots.items():
            span = slots_around(min(own) * SLOT_MS, max(own) * SLOT_MS, policy)
            counts = await self._ports.answers.read(self._app, platform, *span)
            freezes = self._config.freezes(Route(self._app, platform), now, released)
            for slot in own:
                each = health(counts, slot * SLOT_MS, policy)
                found[platform, slot] = each if freezes else msgspec.structs.replace(each, freeze=None, proven=True)
        return [found[receipt.platform, receipt.at // SLOT_MS] for receipt in receipts]

    def note(self, receipts: Sequence[Receipt], healths: Sequence[AnswerHealth]) -> None:
        """Log a change of the freeze, by the latest answer of each platform."""
        latest: dict[Platform, tuple[int, AnswerHealth]] = {}
        for receipt, each in zip(receipts, healths, strict=True):
            if receipt.at >= latest.get(receipt.platform, (0, each))[0]:
                latest[receipt.platform] = receipt.at, each
        for platform, (_, each) in latest.items():
            self._log_change(platform, each.freeze)

    async def look_for_thaw(self) -> None:
        """Log the routes that are no longer frozen and have no receipt that would show it."""
        if self._frozen:
            routes = [Route(self._app, platform) for platform in self._frozen]
            frozen = await frozen_routes(self._ports.answers, routes, self._config, self._ports.clock())
            for route in routes:
                self._log_change(route.platform, frozen.get(route))

    def _log_change(self, platform: Platform, freeze: Freeze | None) -> None:
        """Log that pruning of a platform has been frozen, or has thawed, if that was not logged before."""
        if freeze is not None and platform not in self._frozen:
            self._frozen.add(platform)
            self._log.error("pruning_frozen", platform=platform, why=freeze.why)
        elif freeze is None and platform in self._frozen:
            self._frozen.discard(platform)
            self._log.warning("pruning_thawed", platform=platform)
