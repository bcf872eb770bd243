"""Redis behind the ports: `open_store` is the door.

Each folder may import from those below it::

    opening.py         `open_store`: all of the below as one `Store`
    erase/, cleanup/   everything about one user; what has outlived its use
    webhooks/          how far each webhook has come, and what it could not deliver
    pushes/            accepted in groups, durable where wanted; status, rows, cancel, expansion of audiences
    letters/           dead letters: listed, sent again
    feedback/          receipts, feedback events
    queue/             the lanes: take, settle, retry, launch, take over
    live/              the live channel: streams of devices, connections, gateways, events that devices report
    registry/          devices, users, topics, tombstones
    limits/            rate limits
    figures/           numbers for metrics, `stats` and the freeze of pruning
    revoke/            what must not be sent any more: cancelled, suppressed, superseded, moved to another owner
    work/              which processes live, what they serve and hold
    part.py            what all of the above share
    link/              round trips, failover, scripts, group commit, the clock of the store
    server/            the embedded server of one machine

`keys.py` holds every key with its type, TTL and meaning in one table, `layout.py` how many of what stand together in
one, and `form.py` the number of the format of all. A Lua script stands beside the module that calls it.
"""

from .config import StoreConfig as StoreConfig
from .hashing import token_hash as token_hash
from .link.clock import wall_clock as wall_clock
from .link.permissions import forbidden_to_jobs as forbidden_to_jobs
from .opening import Store as Store, open_store as open_store
from .server.embedded import (
    Fsync as Fsync,
    attach_embedded as attach_embedded,
    holds_data as holds_data,
    lost_socket as lost_socket,
    open_embedded as open_embedded,
    require_free as require_free,
    server_log_tail as server_log_tail,
)
