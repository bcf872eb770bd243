"""The connection to Redis: clients and failover, scripts, group commits, durability, the clock of the store."""

from ...imports import import_redis

import_redis()
