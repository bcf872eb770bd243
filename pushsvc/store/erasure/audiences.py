"""Pushes that are still being made from an audience: whoever is erased is named by none of them any more.

A name is exchanged for one that nobody can have, not taken out: an expansion knows by their places how far it has come.
The push goes to everybody else as before, since a device that is gone is in no audience.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...codec import CodecError, decode_audience, decode_push, encode_audience, encode_push
from ...devices import Audience, ByDevices, ByUsers, ByWhere
from ...model import LANES
from ...where import WhereError
from ...where.words import words_of
from .. import keys
from ..clock import Clock
from ..config import StoreConfig
from ..link import Link
from .keepers import Step
from .subjects import Subjects

_PUSHES = 50
"""Pushes looked at in one step."""
_SOON = 300_000
"""Milliseconds: what is due later waits for its time. Whoever is at work puts the instant off by less."""
_GRACE = 1.0
"""Seconds in which a page of devices that was read before they were removed is in a lane."""


def without_names(audience: Audience, users: Collection[str], ids: Collection[str]) -> Audience:
    """The audience with these names exchanged. Pure."""
    match audience:
        case ByUsers(named):
            return ByUsers(_exchanged(named, users))
        case ByDevices(named):
            return ByDevices(_exchanged(named, ids))
        case ByWhere(text):
            return ByWhere(_expression_without(text, users))
        case _:
            return audience


def _exchanged(named: Sequence[str], gone: Collection[str]) -> tuple[str, ...]:
    # Each by another one: equal names count once.
    return tuple(f"\0{place}" if name in gone else name for place, name in enumerate(named))


def _expression_without(text: str, users: Collection[str]) -> str:
    try:
        words = words_of(text)
    except WhereError:
        return text
    for word in reversed(words):
        if word.kind == "value" and word.value in users:
            text = f"{text[: word.column - 1]}'\0'{text[word.column - 1 + len(word.text) :]}"
    return text


class _Cursor(Struct, frozen=True, array_like=True):
    place: int = 0
    """Of the sets of all shards and lanes."""
    position: str = ""
    busy: bool = False
    """Whether there was any push that may be at work now."""


class Audiences:
    """See `Keeper`."""

    def __init__(self, link: Link, config: StoreConfig, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._clock = clock

    async def step(self, app: str, who: Subjects, cursor: str) -> Step:
        at = msgspec.json.decode(cursor, type=_Cursor) if cursor else _Cursor()
        places = self._config.shards_of(app) * len(LANES)
        if at.place == places and at.busy:
            return Step(Counter(), _written(replace(at, busy=False)), _GRACE)
        if at.place == places:
            return Step(Counter(), None)
        shard, lane = divmod(at.place, len(LANES))
        key = keys.expansions(app, shard, LANES[lane])
        following, flat = await self._link.call("ZSCAN", key, at.position or 0, "COUNT", _PUSHES)
        for push_id, _ in flat:
            await self._exchange(keys.expansion(app, shard, push_id.decode()), who)
        soon = self._clock() + _SOON
        busy = at.busy or any(float(due) <= soon for _, due in flat)
        further = str(int(following)) if int(following) else ""
        return Step(Counter(), _written(_Cursor(at.place if further else at.place + 1, further, busy)))

    async def _exchange(self, key: str, who: Subjects) -> None:
        blob = await self._link.call("HGET", key, "push")
        if blob is None:
            return
        try:
            push = decode_push(blob)
            audience = without_names(decode_audience(push.audience), who.users, who.device_ids)
        except CodecError:
            return
        after = encode_push(replace(push, audience=encode_audience(audience)))
        if after != blob:
            await self._link.script("swap", [key], ["push", blob, after])


def _written(cursor: _Cursor) -> str:
    return msgspec.json.encode(cursor).decode()
