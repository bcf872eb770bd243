"""The keeper of each kind of key in an erasure."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from ...ports.erasure import KeeperStep
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
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
    link: Link,
    config: StoreConfig,
    queue: RedisQueue,
    liveness: Liveness,
    revocations: Revocations,
    hash_key: bytes,
    clock: Clock,
) -> dict[str, Keeper]:
    """Return each keeper by its name in the passes of `stages.erase`."""
    return {
        "audiences": Audiences(link, config, clock),
        "letters": Letters(link, config),
        "later letters": Letters(link, config),
        "queue": Queue(link, config, queue, liveness, revocations, clock, looks=2),
        "late": Queue(link, config, queue, liveness, revocations, clock, looks=1),
        "receipts": Log(link, config, "receipts", keys.receipts, of_receipt, group=keys.FEEDBACK),
        "events": Log(link, config, "events", keys.events, of_event),
        "reported": Log(link, config, "events", partial(keys.events, kind="event"), of_reported),
        "quarantine": Log(link, config, "quarantined", keys.quarantine, of_bytes),
        "rows": Rows(link, hash_key),
    }
