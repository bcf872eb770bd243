"""Redis behind the ports: `open_store` is the door, `MemoryStore` its twin for tests.

How the parts stand to one another::

    open_store ── Store ─┬─ pushes    status, deliveries, cancel                            pushes.py
                         │            accept: in groups, to the disk where wanted           accepting.py, durable.py
                         ├─ queue     take, settle, promote, launch, reclaim, beat          queue.py
                         ├─ receipts  take, record, events                                  receipts.py
                         ├─ answers   what providers said of tokens lately                  answers.py
                         ├─ suppressions  tokens that are not sent to                       suppression.py
                         ├─ keys      API keys                                              keyring.py
                         ├─ dead      dead letters listed and replayed                      letters.py, replays.py
                         ├─ webhooks  what is to be told, and what could not be         webhooks.py
                         ├─ limiter   admit, lease                                          limiter.py
                         ├─ registry  devices, users, topics, tombstones                    registry.py
                         ├─ leftovers what has outlived its use, found and removed          leftovers.py, orphans.py
                         ├─ cleanups  the record of cleanups, and whose turn it is          cleanups.py
                         ├─ workers   which processes live, and what they serve             workers.py
                         ├─ removed() routes that were taken out while something waits     removed.py
                         └─ gauges()  figures for metrics and `stats`                       gauges.py
                              │
                              └── link.py (round trips, faults) ── scripts.py (*.lua) ── connect.py (URL to client)

`keys.py` holds every key with its type, TTL and meaning in one table. `embedded.py` runs the server of one machine.
"""

from .clock import wall_clock
from .config import StoreConfig
from .embedded import Fsync, attach_embedded, holds_data, obituary, open_embedded
from .gauges import AppGauges, Gauges
from .hashing import token_hash
from .memory import MemoryStore
from .opening import Store, open_store
from .workers import Worker

__all__ = [
    "open_store",
    "Store",
    "StoreConfig",
    "MemoryStore",
    "Gauges",
    "Worker",
    "AppGauges",
    "open_embedded",
    "attach_embedded",
    "obituary",
    "holds_data",
    "Fsync",
    "token_hash",
    "wall_clock",
]
