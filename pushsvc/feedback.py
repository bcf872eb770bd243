"""The feedback stage: receipts of dead and suspect tokens become tombstones, suppressions and feedback events.

One task an app. The deeds come first and the receipt is acknowledged, in one step with its event, after them; each
deed is fenced, so that a crash in between repeats the judgement and changes nothing:

- A device is pruned only while it has the token that was judged, registered no later than the answer. Judged again,
  the tombstone is known by the instant of the answer, and so is a strike.
- A token is suppressed before its device is pruned. A registration that comes in between undoes the prune's fence and
  lifts the suppression; one that comes after the prune lifts it by itself.
- A raw token may be registered while it is judged: whoever has it after its suppression was recorded has it lifted.

A burst of bad answers shows only when some of it has been counted. So a judgement with few answers beside it waits for
a second and looks again; what still comes too early can be restored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
from msgspec import Struct

from . import telemetry
from .devices import Device
from .errors import StoreUnavailable
from .freeze import SLOT_MS, Freeze, FreezePolicy, Health, health, slots_around
from .model import FeedbackEvent, Platform, Receipt, Route
from .policy import PruneDecision, PrunePolicy, prune
from .ports import ReceiptLog
from .ports.feedback import RecentAnswers, Suppressions
from .ports.registry import Holding, Prune, Registry, Strike

BATCH = 500
WAIT_MS = 2000
LINGER = 1.0
"""Seconds in which a burst of bad answers shows itself."""


class FeedbackConfig(Struct, frozen=True):
    """What feedback may be told."""

    prune: PrunePolicy = PrunePolicy()
    freeze: FreezePolicy = FreezePolicy()
    prune_anyway: Mapping[Route, int] = {}
    """Routes that are never frozen until an instant, Unix ms."""

    def freezes(self, route: Route, now: int) -> bool:
        """Whether the route may be frozen now."""
        return now >= self.prune_anyway.get(route, 0)


@dataclass(frozen=True)
class FeedbackPorts:
    """What the stage works with."""

    receipts: ReceiptLog
    registry: Registry
    answers: RecentAnswers
    suppressions: Suppressions
    clock: Callable[[], int]
    """Unix ms."""


async def run(ports: FeedbackPorts, apps: Iterable[str], config: FeedbackConfig, stop: asyncio.Event) -> None:
    """Judge receipts until `stop` is set. What is in hand then is still recorded, or left to be judged again."""
    async with asyncio.TaskGroup() as tasks:
        for app in apps:
            tasks.create_task(_Judge(ports, app, config).follow(stop), name=f"feedback:{app}")


async def frozen_routes(
    answers: RecentAnswers, routes: Iterable[Route], config: FeedbackConfig, now: int
) -> dict[Route, Freeze]:
    """The routes whose pruning is frozen at this instant, Unix ms."""
    found = {}
    for route in routes:
        slots = await answers.read(route.app, route.platform, *slots_around(now, now, config.freeze))
        freeze = health(slots, now, config.freeze).freeze
        if freeze is not None and config.freezes(route, now):
            found[route] = freeze
    return found


TOO_LATE: Final = PruneDecision("none", "kept", "changed_meanwhile")


@dataclass
class _Case:
    """A receipt on its way through the stage."""

    entry_id: str
    receipt: Receipt
    device: Device | None
    decision: PruneDecision

    @property
    def device_id(self) -> str | None:
        """Of a raw token the device that has it."""
        return self.receipt.device_id or (self.device.id if self.device else None)

    def event(self) -> FeedbackEvent | None:
        """What is told of it."""
        receipt, action = self.receipt, self.decision.action
        if action is None:
            return None
        return FeedbackEvent(receipt.at, receipt.platform, receipt.token, receipt.reason, action, self.device_id)


class _Judge:
    """The follower of one app."""

    def __init__(self, ports: FeedbackPorts, app: str, config: FeedbackConfig) -> None:
        self._ports = ports
        self._app = app
        self._config = config
        self._frozen: dict[Platform, Freeze] = {}
        self._log = telemetry.get_logger("feedback").bind(app=app)

    async def follow(self, stop: asyncio.Event) -> None:
        pause = 0.05
        while not stop.is_set():
            try:
                taken = await self._ports.receipts.take(self._app, limit=BATCH, wait_ms=WAIT_MS)
                if taken:
                    await self._handle(taken, stop)
                elif self._frozen:
                    await self._look_for_thaw()
                pause = 0.05
            except StoreUnavailable as error:
                self._log.warning("feedback_waits_for_redis", error=str(error))
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)

    async def _handle(self, taken: Sequence[tuple[str, Receipt]], stop: asyncio.Event) -> None:
        receipts = [receipt for _, receipt in taken]
        healths = await self._healths(receipts)
        if not all(each.proven or each.freeze for each in healths):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LINGER)
                return  # nothing is lost: these receipts come again
            healths = await self._healths(receipts)
        self._note(receipts, healths)
        cases = self._judge(taken, healths, await self._holders(receipts))
        await self._strike(cases)
        await self._prune(cases)
        await self._record(cases)

    # --- what is known ------------------------------------------------------------------------------

    async def _healths(self, receipts: Sequence[Receipt]) -> list[Health]:
        """Of the route of each receipt, at the instant of its answer."""
        instants: dict[Platform, set[int]] = {}
        for receipt in receipts:
            instants.setdefault(receipt.platform, set()).add(receipt.at // SLOT_MS)
        found: dict[tuple[Platform, int], Health] = {}
        now = self._ports.clock()
        for platform, slots in instants.items():
            first, last = slots_around(min(slots) * SLOT_MS, max(slots) * SLOT_MS, self._config.freeze)
            counts = await self._ports.answers.read(self._app, platform, first, last)
            freezes = self._config.freezes(Route(self._app, platform), now)
            for slot in slots:
                each = health(counts, slot * SLOT_MS, self._config.freeze)
                found[platform, slot] = each if freezes else msgspec.structs.replace(each, freeze=None, proven=True)
        return [found[receipt.platform, receipt.at // SLOT_MS] for receipt in receipts]

    async def _holders(self, receipts: Sequence[Receipt]) -> list[Device | None]:
        return await self._ports.registry.holders(
            self._app, [Holding(receipt.device_id, receipt.platform, receipt.token) for receipt in receipts]
        )

    # --- the judgement ------------------------------------------------------------------------------

    def _judge(
        self,
        taken: Sequence[tuple[str, Receipt]],
        healths: Sequence[Health],
        devices: Sequence[Device | None],
    ) -> list[_Case]:
        cases = []
        touched: dict[str, set[str]] = {}
        for (entry_id, receipt), each, device in zip(taken, healths, devices, strict=True):
            decision = prune(receipt, device, each, self._config.prune)
            if device is not None and decision.deed != "none":
                # What was read of a device is old once one of its receipts has been acted on; a prune outdoes a strike.
                deeds = touched.setdefault(device.id, set())
                if deeds & {decision.deed, "prune"}:
                    decision = PruneDecision("none", None, "judged_already")
                deeds.add(decision.deed)
            cases.append(_Case(entry_id, receipt, device, decision))
        return cases

    # --- the deeds ----------------------------------------------------------------------------------

    async def _strike(self, cases: Iterable[_Case]) -> None:
        due = [
            (
                case,
                Strike(
                    case.device.id, case.receipt.token, case.receipt.at, case.decision.strikes, case.device.struck_at
                ),
            )
            for case in cases
            if case.device is not None and case.decision.deed == "strike"
        ]
        if due:
            took = await self._ports.registry.strike(self._app, [strike for _, strike in due])
            for (case, _), yes in zip(due, took, strict=True):
                if not yes:
                    case.decision = TOO_LATE

    async def _prune(self, cases: Iterable[_Case]) -> None:
        due = [(case, case.device) for case in cases if case.device is not None and case.decision.deed == "prune"]
        if not due:
            return
        marks = [(case.receipt.platform, case.receipt.token, case.receipt.at) for case, _ in due]
        await self._ports.suppressions.add(self._app, marks)
        prunes = [Prune(device.id, case.receipt.token, case.receipt.reason, case.receipt.at) for case, device in due]
        took = await self._ports.registry.prune(self._app, prunes)
        left = [each for each, yes in zip(due, took, strict=True) if not yes]
        if left:
            holders = await self._holders([case.receipt for case, _ in left])
            await self._ports.suppressions.lift(
                self._app,
                [
                    device
                    for (_, device), holder in zip(left, holders, strict=True)
                    if not _is_tombstone(holder, device)
                ],
                always=True,
            )
        for case, _ in left:
            case.decision = TOO_LATE

    async def _record(self, cases: Sequence[_Case]) -> None:
        await self._ports.receipts.record(self._app, [(case.entry_id, case.receipt, case.event()) for case in cases])
        raw = [case.receipt for case in cases if case.decision.deed == "suppress"]
        if raw:
            holders = await self._holders(raw)
            await self._ports.suppressions.lift(self._app, [device for device in holders if device], always=True)
        for case in cases:
            if case.decision.deed in ("prune", "suppress"):
                telemetry.PRUNED.labels(self._app, case.receipt.platform, case.receipt.reason).inc()
            self._log.info(
                "token_judged",
                platform=case.receipt.platform,
                token_hash=case.receipt.token_hash,
                device_id=case.device_id,
                reason=case.receipt.reason,
                action=case.decision.action,
                why=case.decision.why,
            )

    # --- the freeze, told ---------------------------------------------------------------------------

    def _note(self, receipts: Sequence[Receipt], healths: Sequence[Health]) -> None:
        """Tell a change, by the latest answer of each platform."""
        latest: dict[Platform, tuple[int, Health]] = {}
        for receipt, each in zip(receipts, healths, strict=True):
            if receipt.at >= latest.get(receipt.platform, (0, each))[0]:
                latest[receipt.platform] = receipt.at, each
        for platform, (_, each) in latest.items():
            self._tell(platform, each.freeze)

    async def _look_for_thaw(self) -> None:
        routes = [Route(self._app, platform) for platform in self._frozen]
        frozen = await frozen_routes(self._ports.answers, routes, self._config, self._ports.clock())
        for route in routes:
            self._tell(route.platform, frozen.get(route))

    def _tell(self, platform: Platform, freeze: Freeze | None) -> None:
        before = self._frozen.pop(platform, None)
        if freeze is not None:
            self._frozen[platform] = freeze
        if freeze is not None and before is None:
            self._log.error("pruning_frozen", platform=platform, why=freeze.why)
        elif freeze is None and before is not None:
            self._log.warning("pruning_thawed", platform=platform)


def _is_tombstone(holder: Device | None, judged: Device) -> bool:
    """Whether somebody else has pruned the device that was judged."""
    return holder is not None and holder.state == "pruned" and holder.token == judged.token
