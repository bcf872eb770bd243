"""The keeper of each kind of key in an erasure."""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

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

KEEPERS: Final[dict[str, str]] = {
    # the table of keys.py: the keeper that removes the data of a device, or in brackets why there is none
    "ps:T:q:<platform>:<lane>": "queue",
    "ps:T:retry:<platform>": "queue",
    "ps:T:pending": "(counts)",
    "ps:T:scheduled": "(ids of pushes)",
    "ps:T:urgent": "(ids of pushes)",
    "ps:T:normal": "(ids of pushes)",
    "ps:T:urgent:<platform>": "(instants)",
    "ps:T:normal:<platform>": "(instants)",
    "ps:T:s:<id>": "queue",
    "ps:T:p:<id>": "rows",
    "ps:T:v:<id>": "letters",
    "ps:T:b:<id>": "(bits)",
    "ps:T:r:<id>": "rows",
    "ps:T:t:<id>": "(numbers)",
    "ps:T:x:<id>": "audiences",
    "ps:T:expansions:<lane>": "(ids of pushes)",
    "ps:T:cancelled": "(ids of pushes)",
    "ps:T:recalled": "(ids of pushes)",
    "ps:T:latest": "(keyed digests, and ids of pushes, for a day)",
    "ps:T:latest:before": "(keyed digests, and ids of pushes, for a day)",
    "ps:T:c:<digest>": "(a keyed digest, and ids of pushes)",
    "ps:T:released": "(names of platforms)",
    "ps:T:recent": "(ids of pushes, names of keys, 32 bits of a `collapse`)",
    "ps:T:flow:<minute>": "(counts)",
    "ps:T:hook:calls": "(ids and counts)",
    "ps:T:epoch": "(a number)",
    "ps:T:revoked": "(ids, and 32 bits of a token's CRC)",
    "ps:T:heard": "(names of processes)",
    "ps:T:mark": "(a number)",
    "ps:T:dead": "letters",
    "ps:T:replay:<job>": "(ids and counts)",
    "ps:T:answers:<platform>:<minute>": "(counts)",
    "ps:T:receipts": "receipts",
    "ps:T:events": "events",
    "ps:T:gone": "(an id of an event)",
    "ps:T:reported": "reported",
    "ps:T:gone:reported": "(an id of an event)",
    "ps:T:sup:<platform>": "(keyed digests: of erased tokens for 29 days)",
    "ps:T:moved:<platform>": "(keyed digests, for 29 days)",
    "ps:T:lim:<platform>:<family>:<kind>:<number>": "rows",
    "ps:{owner}:bucket:<name>": "(a number)",
    "ps:{owner}:asked:<who>": "(numbers)",
    "ps:T:hook": "(ids of events)",
    "ps:T:hook:dead": "(ids of events)",
    "ps:T:hook:asked": "(ids of events)",
    "ps:T:hook:reported": "(ids of events)",
    "ps:T:i:<digest>": "(a digest, and an answer of ids)",
    "ps:T:quarantine": "quarantine",
    "ps:D:mark": "(a number)",
    "ps:D:count": "(numbers)",
    "ps:D:d:<n / 128>": "erasures",
    "ps:D:i:<b>": "erasures",
    "ps:D:k:<b>": "erasures",
    "ps:D:u:<b>": "erasures",
    "ps:D:t:<topic>": "erasures",
    "ps:D:topics": "(names of topics)",
    "ps:D:x:<platform>:<why>": "erasures",
    "ps:D:x": "erasures",
    "ps:D:streams:<n / 32>": "erasures",
    "ps:D:pushes:<hour>:<b>": "(ids of pushes)",
    "ps:D:displaced:<h>:<k>:<b>": "(numbers)",
    "ps:D:gateways": "(names of processes)",
    "ps:D:refused": "(keyed digests, for 400 days)",
    "ps:D:moved": "(numbers)",
    "ps:D:live": "(names of platforms, and numbers)",
    "ps:T:live:<id>": "rows",
    "ps:T:seen:<id>": "(numbers of devices, never given again)",
    "ps:{gateway}:inbox": "(contents of pushes, and numbers of connections, for a minute)",
    "ps:T:erase": "erasures",
    "ps:T:erased:<digest>": "(a keyed digest, and counts)",
    "ps:replays": "(ids)",
    "ps:cleanup": "(counts)",
    "ps:bell": "(an instant)",
    "ps:lock:<name>": "(names of processes)",
    "ps:alive:<consumer>": "(names of processes)",
    "ps:held": "(reasons)",
    "ps:workers": "(names of processes and apps)",
    "ps:routes": "(names of apps and platforms)",
    "ps:probe": "(an instant)",
    "ps:keys": "(API keys)",
    "ps:keys:used": "(hashes of API keys, and instants)",
    "ps:hash_key": "(a key)",
    "ps:format": "(a number)",
}
"""`erasures` is the erasure itself, which uses the registry."""


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
