"""Applies the decisions about a batch: strikes, prunes, suppressions, the record.

Every change is fenced and repeatable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ... import telemetry
from ...model.delivery import Receipt
from ...model.devices import Device
from ...model.routing import platform_of
from ...ports.registry import Holding, Prune, Strike
from ...rules.policy import PrunePolicy, dead_until
from .config import FeedbackPorts
from .judge import Case


class Effects:
    """Applies the decisions about receipts of one app."""

    def __init__(self, ports: FeedbackPorts, app: str, policy: PrunePolicy) -> None:
        self._ports = ports
        self._app = app
        self._policy = policy
        self._log = telemetry.get_logger("feedback").bind(app=app)

    async def holders(self, receipts: Iterable[Receipt]) -> list[Device | None]:
        wanted = [Holding(receipt.device_id, platform_of(receipt.platform), receipt.token) for receipt in receipts]
        return await self._ports.registry.holders(self._app, wanted)

    async def strike(self, cases: Iterable[Case]) -> None:
        due = [(case, case.device) for case in cases if case.device and case.decision.change == "strike"]
        if due:
            strikes = [
                Strike(
                    *(device.id, device.token, device.registered_at),
                    *(case.receipt.at, case.decision.strikes, device.struck_at),
                    *(case.receipt.reason, case.receipt.push_id),
                )
                for case, device in due
            ]
            took = await self._ports.registry.strike(self._app, strikes)
            await self._judge_again([case for (case, _), yes in zip(due, took, strict=True) if not yes])

    async def prune(self, cases: Iterable[Case]) -> None:
        """Make the tombstones that were decided. The token is suppressed first, so that a registration in between,
        which makes the prune void, or after it, which lifts the suppression, never leaves its token suppressed. That
        is as of the instant up to which the evidence reaches: the registration may be later than the request and, as
        its write was slow, have an earlier instant than the answer."""
        due = [(case, case.device) for case in cases if case.device and case.decision.change == "prune"]
        if due:
            marks = [(case.receipt.platform, device.token, dead_until(case.receipt)) for case, device in due]
            await self._ports.suppressions.add(self._app, marks)
            prunes = [
                Prune(
                    *(device.id, device.token, device.registered_at),
                    *(case.receipt.reason, case.receipt.at, case.receipt.push_id),
                )
                for case, device in due
            ]
            took = await self._ports.registry.prune(self._app, prunes)
            left = [(case, device) for (case, device), yes in zip(due, took, strict=True) if not yes]
            await self._judge_again([case for case, _ in left])
            alive = [device for case, device in left if not case.device or case.device.state == "active"]
            await self._ports.suppressions.lift(self._app, alive, always=True)

    async def record(self, cases: Sequence[Case]) -> None:
        """Suppress the raw tokens that were decided, append the events and acknowledge the receipts, in one step. If
        such a token was registered while it was judged, its suppression is lifted."""
        await self._ports.receipts.record(self._app, [(case.entry_id, case.receipt, case.event()) for case in cases])
        raw = [case for case in cases if case.decision.change == "suppress"]
        if raw:
            holders = await self.holders(case.receipt for case in raw)
            # A device in another environment does not vouch for the token in this one.
            registered = [
                device
                for case, device in zip(raw, holders, strict=True)
                if device is not None and case.environment in (None, device.environment)
            ]
            await self._ports.suppressions.lift(self._app, registered, always=True)
        for case in cases:
            if case.decision.change in ("prune", "suppress"):
                telemetry.PRUNED.labels(self._app, platform_of(case.receipt.platform), case.receipt.reason).inc()
            self._log.info(
                "token_judged",
                platform=case.receipt.platform,
                token_hash=case.receipt.token_hash,
                device_id=case.device_id,
                reason=case.receipt.reason,
                action=case.decision.action,
                why=case.decision.why,
            )

    async def _judge_again(self, cases: Sequence[Case]) -> None:
        if cases:
            holders = await self.holders(case.receipt for case in cases)
            for case, device in zip(cases, holders, strict=True):
                case.judge_again(device, self._policy)
