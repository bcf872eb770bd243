"""The keeper of each kind of key in an erasure."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from ...ports.erasure import KeeperStep
from .. import keys
from ..part import StoreContext
from ..queue.queue import RedisQueue
from ..revoke.revocations import Revocations
from ..work.liveness import Liveness
from .audiences import Audiences
from .logs import Letters, Log, of_bytes, of_event, of_receipt, of_reported
from .queue import Queue
from .rows import Rows
from .subjects import Subjects


class Keeper(Protocol):
    """Finds one kind of key that may contain data of devices, and removes that data. A step is bounded, may be
    repeated, and leaves the data of others as it is. The `cursor` of the first step is empty."""

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep: ...


def keepers(
    context: StoreContext, queue: RedisQueue, liveness: Liveness, revocations: Revocations
) -> dict[str, Keeper]:
    """Return each keeper by its name in the passes of `stages.erase`."""
    return {
        "audiences": Audiences(context),
        "letters": Letters(context),
        "later letters": Letters(context),
        "queue": Queue(context, queue, liveness, revocations, looks=2),
        "late": Queue(context, queue, liveness, revocations, looks=1),
        "receipts": Log(context, "receipts", keys.receipts, of_receipt, group=keys.FEEDBACK),
        "events": Log(context, "events", keys.events, of_event),
        "reported": Log(context, "events", partial(keys.events, kind="event"), of_reported),
        "quarantine": Log(context, "quarantined", keys.quarantine, of_bytes),
        "rows": Rows(context.link, context.hash_key),
    }
