"""The permissions that a user of Redis needs: every command that is sent, or run by a script, and those of rq."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from redis.exceptions import NoPermissionError, ResponseError

from .. import keys
from . import scripts
from .connect import check_jobs_url, close_redis, first_contact, open_redis, store_faults
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


JOBS: Final = (
    *("DEL", "EXISTS", "EXPIRE", "GET", "HGET", "HGETALL", "HINCRBY", "HINCRBYFLOAT", "HSET", "INFO", "LLEN"),
    *("LPUSH", "LRANGE", "LREM", "PERSIST", "RPUSH", "SADD", "SCARD", "SET", "SMEMBERS", "SREM", "XADD"),
    *("ZADD", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZREM", "ZREMRANGEBYSCORE", "ZSCORE"),
)
"""Commands that rq sends, all on keys under `rq:`, beside BLMOVE, which no script may run."""
_JOBS_PROBE: Final = "rq:pushsvc-probe"


async def forbidden_to_jobs(url: str) -> list[str]:
    """Return the rules of an access list that rq needs in this Redis and that its user lacks. Raises `ConfigError` for
    the URL, and `StoreError`."""
    check_jobs_url(url)
    client = open_redis(url, name="check")
    lacking = []
    try:
        with first_contact(url), store_faults():
            try:
                await client.execute_command("EVAL", "return 1", 1, _JOBS_PROBE)
            except NoPermissionError as error:
                return ["~rq:*"] if "key" in str(error) else ["+eval"]
            try:
                await client.execute_command("BLMOVE", _JOBS_PROBE, _JOBS_PROBE, "RIGHT", "LEFT", 0.01)
            except NoPermissionError:
                lacking.append("+blmove")
            with suppress(ResponseError):  # this user may not run COMMAND: what else it may not run is unknown
                names = await client.execute_command("EVAL", scripts.load("permitted").text, 1, _JOBS_PROBE, *JOBS)
                lacking += [f"+{name.decode().lower()}" for name in names]
            return lacking
    finally:
        await close_redis(client)
