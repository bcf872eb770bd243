"""The feedback stage: receipts of dead and suspect tokens become suppressions and feedback events.

One task an app. A receipt is acknowledged in the same atomic step that records what follows from it, so a crash in
between repeats the judgement and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from . import telemetry
from .errors import StoreUnavailable
from .policy import judge_token
from .ports import ReceiptLog

BATCH = 500
WAIT_MS = 2000


async def run(receipts: ReceiptLog, apps: Iterable[str], stop: asyncio.Event) -> None:
    """Judge receipts until `stop` is set; what is in hand then is still recorded."""
    async with asyncio.TaskGroup() as tasks:
        for app in apps:
            tasks.create_task(_follow(receipts, app, stop), name=f"feedback:{app}")


async def _follow(receipts: ReceiptLog, app: str, stop: asyncio.Event) -> None:
    log = telemetry.get_logger("feedback").bind(app=app)
    pause = 0.05
    while not stop.is_set():
        try:
            taken = await receipts.take(app, limit=BATCH, wait_ms=WAIT_MS)
            judged = [(entry_id, receipt, judge_token(receipt)) for entry_id, receipt in taken]
            if judged:
                await receipts.record(app, judged)
            pause = 0.05
        except StoreUnavailable as error:
            log.warning("feedback_waits_for_redis", error=str(error))
            await asyncio.sleep(pause)
            pause = min(2.0, pause * 2)
            continue
        for _, receipt, event in judged:
            if event.action == "suppressed":
                telemetry.PRUNED.labels(app, receipt.platform, receipt.reason).inc()
            log.info(
                "token_judged",
                platform=receipt.platform,
                token_hash=receipt.token_hash,
                reason=receipt.reason,
                action=event.action,
            )
