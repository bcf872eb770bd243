"""Replays: requested, taken up, run step by step, and taken up again when their worker has died.

A replay is a record in Redis. `ps:replays` has the instant at which a replay without a worker is due; its worker
postpones that with `keep`. A lease does not decide which worker runs it: every step names the cursor at which it began,
and a step from another cursor changes nothing (see replay.lua).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from ...errors import Unreadable
from ...model.codec import decode_chunk, encode_chunk
from ...ports.letters import ReplaySpec, ReplayStatus, ReplayStep
from .. import keys
from ..config import DAY
from ..link.unreadable import readable
from ..part import StoreContext
from ..queue.contents import lifetime
from ..queue.record import lua_string
from ..queue.settling import recorded_turn
from ..revoke.presence import DevicePresence
from .listing import LOOK, RedisLetters, first_id, fits, letters, shards_meant
from .reopening import Letter, Reopening, grouped, reopened

RECORD_TTL = 7 * DAY * 1000
MOST = 100
"""The most replays without a worker that are returned at once, those that are longest overdue."""
_FIELDS = ("spec", "st", "at", "matched", "error", "up", "moved", "skipped", "stop")
ENDED: Final = ("done", "failed", "stopped")
_decode_spec = msgspec.json.Decoder(ReplaySpec).decode
_pack = msgspec.msgpack.Encoder().encode


class RedisReplays(RedisLetters):
    def __init__(self, context: StoreContext, presence: DevicePresence, ring: Callable[[], None]) -> None:
        """Write records that `jobs` acts on; `ring` wakes it."""
        super().__init__(context)
        self._ring = ring
        self._presence = presence

    # --- records --------------------------------------------------------------------------------

    async def request(self, spec: ReplaySpec) -> ReplayStatus:
        """Request a replay. The record is written before the replay is due, so that a worker finds it complete."""
        app, now = spec.app, self._clock()
        job = f"{now:012x}{secrets.token_hex(4)}"
        matched = await self.count(app, spec.filter)
        shards = list(shards_meant(app, spec.filter, self._config))
        last = await self._link.many([("XREVRANGE", keys.dead(app, shard), "+", "-", "COUNT", 1) for shard in shards])
        commands: list[tuple[Any, ...]] = []
        for shard, newest in zip(shards, last, strict=True):
            key = keys.replay(app, shard, job)
            commands.append(("HSET", key, "end", newest[0][0] if newest else "0-0"))
        head = keys.replay(app, 0, job)
        fields = ("spec", msgspec.json.encode(spec), "st", "queued", "at", now, "up", now, "matched", matched)
        commands.append(("HSET", head, *fields))
        await self._link.many(commands)
        await self._link.guarded_call("ZADD", keys.REPLAYS, now, f"{app} {job}")
        self._ring()
        return ReplayStatus(job=job, spec=spec, state="queued", created_at=now, updated_at=now, matched=matched)

    async def replay(self, app: str, job: str) -> ReplayStatus | None:
        """Return the state of a replay. Raises `Unreadable` for one that a newer version has written."""
        shards = range(self._config.shards_of(app))
        answers = await self._link.many([("HMGET", keys.replay(app, shard, job), *_FIELDS) for shard in shards])
        spec, state, created, matched, error = answers[0][:5]
        if spec is None:
            return None
        known = readable(_decode_spec, spec, "replay", app)
        if known is None:
            raise Unreadable("The replay")
        return ReplayStatus(
            job=job,
            spec=known,
            state="stopped" if answers[0][8] else state.decode(),
            created_at=int(created),
            updated_at=max(int(answer[5] or 0) for answer in answers),
            matched=int(matched),
            moved=sum(int(answer[6] or 0) for answer in answers),
            skipped=sum(int(answer[7] or 0) for answer in answers),
            error=(error or b"").decode(),
        )

    async def stop(self, app: str, job: str) -> ReplayStatus | None:
        """Stop a replay by a field of its own in each shard: a worker in a step may still write the state, but moves
        nothing after this has returned. It is promised, so that a failover does not let the replay go on."""
        status = await self.replay(app, job)
        if status is None or status.state in ENDED:
            return status
        for shard in range(self._config.shards_of(app)):
            key = keys.replay(app, shard, job)
            await self._link.guarded_call("HSET", key, "stop", 1, "up", self._clock())
            await self._link.call("PEXPIRE", key, RECORD_TTL)
        await self._link.call("ZREM", keys.REPLAYS, f"{app} {job}")
        return await self.replay(app, job)

    async def unfinished(self, *, due: bool = True) -> list[tuple[str, str]]:
        narrowed = ("-inf", self._clock(), "LIMIT", 0, MOST) if due else ("-inf", "+inf")
        found = await self._link.call("ZRANGEBYSCORE", keys.REPLAYS, *narrowed)
        return [(app, job) for app, _, job in (name.decode().partition(" ") for name in found)]

    async def keep(self, app: str, job: str, *, lease: int) -> None:
        await self._link.call("ZADD", keys.REPLAYS, "XX", self._clock() + lease, f"{app} {job}")

    async def due_at(self, app: str, job: str) -> int:
        return int(await self._link.call("HGET", keys.replay(app, 0, job), "due") or 0)

    async def put_off(self, app: str, job: str, due: int) -> None:
        await self._link.call("HSET", keys.replay(app, 0, job), "due", due)
        await self._link.call("ZADD", keys.REPLAYS, "XX", due, f"{app} {job}")

    async def finish(self, app: str, job: str, error: str = "") -> None:
        state = "failed" if error else "done"
        records = [keys.replay(app, shard, job) for shard in range(self._config.shards_of(app))]
        fields = ("st", state, "error", error, "up", self._clock())
        lifetimes = [("PEXPIRE", record, RECORD_TTL) for record in records]
        await self._link.many([("HSET", records[0], *fields), *lifetimes])
        await self._link.call("ZREM", keys.REPLAYS, f"{app} {job}")

    # --- steps ----------------------------------------------------------------------------------

    async def step(self, app: str, job: str, *, most: int) -> ReplayStep:
        status = await self.replay(app, job)
        if status is None or status.state in ENDED:
            return ReplayStep(over=True)
        if status.state == "queued":
            await self._link.call("HSET", keys.replay(app, 0, job), "st", "running")
        spec = status.spec
        if spec.limit:
            most = min(most, spec.limit - status.moved)
            if most <= 0:
                return ReplayStep(over=True)
        for shard in shards_meant(app, spec.filter, self._config):
            step = await self._step_in(spec, job, shard, most)
            if not step.over:
                return step
        return ReplayStep(over=True)

    async def _step_in(self, spec: ReplaySpec, job: str, shard: int, most: int) -> ReplayStep:
        app = spec.app
        while True:
            history = self._link.history
            cursor, end = await self._link.call("HMGET", keys.replay(app, shard, job), "cursor", "end")
            seen = (cursor or b"").decode()
            found, reached = await self._next(spec, shard, seen, (end or b"0-0").decode(), most)
            if reached == seen:
                return ReplayStep(over=True)
            reopenings, skipped = await self._reopen(app, found)
            self._link.require(history)
            answer = await self._move(app, shard, job, (seen, reached, skipped), reopenings)
            if answer[0] == -1:
                return ReplayStep(lost=True)
            if answer[0] >= 0:
                return ReplayStep(moved=answer[0], skipped=answer[1])
            # A dead letter was removed by another replay or by its age: read again.

    async def _next(self, spec: ReplaySpec, shard: int, seen: str, end: str, most: int) -> tuple[list[Letter], str]:
        """Return the next selected dead letters, and the cursor after them."""
        chosen: list[Letter] = []
        reached, looked = seen, 0
        async for page in letters(self._link, spec.app, shard, after=seen, first=first_id(spec.filter), last=end):
            for entry_id, letter in page:
                reached = entry_id
                if fits(letter, spec.filter):
                    chosen.append((entry_id, letter))
                    if len(chosen) == most:
                        return chosen, reached
            looked += len(page)
            if looked >= LOOK:
                break
        return chosen, reached

    async def _reopen(self, app: str, found: Sequence[Letter]) -> tuple[list[Reopening], int]:
        """Return the chunks, and the number of dead letters that cannot be read."""
        now = self._clock()
        reopenings, skipped = [], 0
        for group in grouped(found, self._config.chunk_size):
            head = readable(decode_chunk, group[0][1].head, "dead_letter", app)
            if head is None:
                skipped += len(group)
            else:
                reopenings.append(reopened(head, group, now=now))
        await self._presence.look_again(app, [each.chunk for each in reopenings])
        return reopenings, skipped

    async def _move(
        self, app: str, shard: int, job: str, progress: tuple[str, str, int], reopenings: Sequence[Reopening]
    ) -> list[int]:
        now = self._clock()
        groups = [
            (
                each.chunk.push_id,
                each.chunk.channel,
                each.chunk.lane,
                each.chunk.total,
                recorded_turn(each.chunk),
                lua_string(encode_chunk(each.chunk)),
                [target.index for target in each.chunk.targets],
                each.entries,
                lifetime(each.chunk.expires_at, now) if each.chunk.lacks_content else 0,
                each.failed_at,
            )
            for each in reopenings
        ]
        answer: list[int] = await self._link.read(
            "replay",
            [keys.pending(app, shard), keys.dead(app, shard), keys.replay(app, shard, job)],
            [keys.prefix(app, shard), _pack((now, *progress, groups))],
        )
        return answer
