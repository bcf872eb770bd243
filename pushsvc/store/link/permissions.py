"""The permissions that a user of Redis needs: every command that is sent, or run by a script."""

from __future__ import annotations

from typing import Final

from .. import keys
from . import scripts
from .link import Link

SENT: Final = (
    *("DEL", "EXISTS", "GET", "SET", "PERSIST", "PEXPIRE", "TIME", "SCAN"),
    *("HDEL", "HGET", "HGETALL", "HINCRBY", "HKEYS", "HLEN", "HMGET", "HSCAN", "HSET", "HSETNX"),
    *("INFO", "LINDEX", "LRANGE", "SADD", "SISMEMBER", "SMEMBERS"),
    *("XACK", "XADD", "XDEL", "XINFO|CONSUMERS", "XLEN", "XRANGE", "XREAD", "XREADGROUP", "XREVRANGE", "XTRIM"),
    *("ZADD", "ZCARD", "ZCOUNT", "ZMSCORE", "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZREM", "ZREMRANGEBYRANK"),
    *("ZREMRANGEBYSCORE", "ZREVRANGE", "ZREVRANGEBYSCORE", "ZSCAN", "ZSCORE"),
)
"""Commands that are sent directly and may also occur in a script. The others report their own fault when they are first
sent: EVAL and EVALSHA at once, ROLE and WAIT, WAITAOF, CLUSTER, SENTINEL if the settings need them."""


async def forbidden(link: Link) -> list[str]:
    """Return the commands of ours that this user may not run. Needs COMMAND and EVALSHA."""
    wanted = sorted({*SENT, *scripts.commands()})
    return [name.decode() for name in await link.script("permitted", [keys.PROBE], wanted)]
