"""A receipt in progress, with what is known about it and what was decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ...model.delivery import Receipt
from ...model.devices import Device, Environment
from ...model.routing import platform_of
from ...model.status import FeedbackEvent
from ...rules.freeze import AnswerHealth
from ...rules.policy import PruneDecision, PrunePolicy, prune
from .config import FeedbackConfig

TOO_LATE: Final = PruneDecision("none", "kept", "changed_meanwhile")
_ONCE: Final = PruneDecision("none", None, "judged_already")


@dataclass
class Case:
    """A receipt with its decision, which may still turn out to be too late."""

    entry_id: str
    receipt: Receipt
    health: AnswerHealth
    device: Device | None
    decision: PruneDecision
    environment: Environment | None = None
    """The environment of the account that gave the answer."""

    @property
    def device_id(self) -> str | None:
        """The id of the device; for a raw token, that of the device that has it."""
        return self.receipt.device_id or (self.device.id if self.device else None)

    def judge_again(self, device: Device | None, policy: PrunePolicy) -> None:
        """Judge again, because the change did not take effect: the device has changed.

        Another process may have made the same change, or this one, by a command whose answer was lost; what then
        remains to be done waits for the next answer.
        """
        self.device = device
        decision = prune(self.receipt, device, self.health, policy, self.environment)
        self.decision = decision if decision.change == "none" else TOO_LATE

    def event(self) -> FeedbackEvent | None:
        receipt, action = self.receipt, self.decision.action
        if action is None:
            return None
        return FeedbackEvent(
            receipt.at, platform_of(receipt.platform), receipt.token, receipt.reason, action, self.device_id
        )


def judge(
    taken: Sequence[tuple[str, Receipt]],
    healths: Iterable[AnswerHealth],
    devices: Iterable[Device | None],
    config: FeedbackConfig,
) -> list[Case]:
    """Judge a batch, with one change per kind and device: what was read of a device is outdated once a receipt was
    applied."""
    cases = []
    touched: dict[str, set[str]] = {}
    for (entry_id, receipt), health, device in zip(taken, healths, devices, strict=True):
        environment = config.environment_of(receipt)
        decision = prune(receipt, device, health, config.prune, environment)
        if device is not None and decision.change != "none":
            changes = touched.setdefault(device.id, set())
            if changes & {decision.change, "prune"}:
                decision = _ONCE
            else:
                changes.add(decision.change)
        cases.append(Case(entry_id, receipt, health, device, decision, environment))
    return cases
