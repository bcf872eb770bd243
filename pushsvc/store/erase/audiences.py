"""Removes the names of erased users and devices from the audiences of pushes that are still being expanded.

A name is replaced by one that nothing can have, rather than removed, because an expansion stores its progress as a
place in the list. The push goes to all other receivers as before, since a removed device is in no audience. A push that
names nothing else ends, and its content is removed, however far off its time is. An audience that names neither the
user nor a device (a topic, all, an expression without the name) stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from msgspec.structs import replace

from ...model.codec import CodecError, decode_audience, decode_push, encode_audience, encode_push
from ...model.devices import NOBODY, Audience, ByDevices, ByUsers, ByWhere
from ...model.push import LANES, Push
from ...ports.erasure import KeeperStep
from ...rules.where import WhereError, compile_where, never
from ...rules.where.words import words_of
from .. import keys
from ..cursors import SetCursor
from ..part import StorePart
from .subjects import Counts, Subjects

_PUSHES = 50
"""Pushes examined in one step."""
_SOON = 300_000
"""Milliseconds: a push that is due later waits for its time. A process that expands one postpones it by less."""
_GRACE = 1.0
"""Seconds after which a page of devices that was read before their removal is in a lane."""


def without_names(audience: Audience, users: Collection[str], ids: Collection[str]) -> Audience:
    """Return the audience with these names replaced. Pure."""
    match audience:
        case ByUsers(named):
            return ByUsers(_replaced(named, users))
        case ByDevices(named):
            return ByDevices(_replaced(named, ids))
        case ByWhere(text):
            return ByWhere(_expression_without(text, users))
        case _:
            return audience


def is_anonymous(audience: Audience) -> bool:
    """Return whether all names of an audience were replaced. Pure."""
    match audience:
        case ByUsers(named) | ByDevices(named):
            return all(name.startswith(NOBODY) for name in named)
        case ByWhere(text):
            try:
                return compile_where(text, now=0) is never
            except WhereError:
                return False
        case _:
            return False


def named_in(audience: Audience, who: Subjects) -> str:
    """Return the record key of a subject that the audience names."""
    match audience:
        case ByDevices(ids):
            return next(key for name in ids if (key := who.of_id(name)) is not None)
        case ByUsers(named):
            return next(who.users[name] for name in named if name in who.users)
        case ByWhere(text):
            return next(who.users[word.value] for word in words_of(text) if word.value in who.users)
        case _:
            raise ValueError("it names no subject")


def _replaced(named: Sequence[str], gone: Collection[str]) -> tuple[str, ...]:
    # Each by a different one, because equal names count once.
    return tuple(f"{NOBODY}{place}" if name in gone else name for place, name in enumerate(named))


def _expression_without(text: str, users: Collection[str]) -> str:
    try:
        words = words_of(text)
    except WhereError:
        return text
    for word in reversed(words):
        if word.kind == "value" and word.value in users:
            text = f"{text[: word.column - 1]}'{NOBODY}'{text[word.column - 1 + len(word.text) :]}"
    return text


class _Cursor(SetCursor, frozen=True, array_like=True):
    busy: bool = False
    """Whether there was a push that a process may be expanding now."""


class Audiences(StorePart):
    """A `Keeper` of audiences."""

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep:
        at = _Cursor.read(cursor)
        places = self._config.shards_of(app) * len(LANES)
        if at.place == places and at.busy:
            return KeeperStep(Counter(), replace(at, busy=False).written(), _GRACE)
        if at.place == places:
            return KeeperStep(Counter(), None)
        shard, lane = divmod(at.place, len(LANES))
        key = keys.expansions(app, shard, LANES[lane])
        following, flat = await self._link.call("ZSCAN", key, at.position or 0, "COUNT", _PUSHES)
        removed: Counts = Counter()
        for push_id, _ in flat:
            await self._replace(app, shard, push_id.decode(), who, removed)
        soon = self._clock() + _SOON
        busy = at.busy or any(float(due) <= soon for _, due in flat)
        further = str(int(following)) if int(following) else ""
        return KeeperStep(removed, _Cursor(at.place if further else at.place + 1, further, busy).written())

    async def _replace(self, app: str, shard: int, push_id: str, who: Subjects, removed: Counts) -> None:
        key = keys.expansion(app, shard, push_id)
        blob, step = await self._link.call("HMGET", key, "push", "step")
        if blob is None:
            return
        try:
            push = decode_push(blob)
            before = decode_audience(push.audience)
        except CodecError:
            return
        audience = without_names(before, who.users, who.device_ids)
        if audience == before:
            return
        if is_anonymous(audience) and await self._end(push, shard, step):
            removed[named_in(before, who), "pushes"] += 1
        else:
            after = encode_push(replace(push, audience=encode_audience(audience)))
            await self._link.script("swap", [key], ["push", blob, after])

    async def _end(self, push: Push, shard: int, step: bytes) -> bool:
        """End a push, as if its audience were complete. Returns False where a process expands it, which then ends
        it."""
        app, now = push.app, self._clock()
        total = await self._link.script(
            "expand",
            [
                *(keys.pending(app, shard), keys.push(app, shard, push.id)),
                *(keys.expansion(app, shard, push.id), keys.expansions(app, shard, push.lane)),
            ],
            [keys.prefix(app, shard), push.id, now, *self._config.lifetimes, step, "", 1, 0],
        )
        return bool(total >= 0)
