"""The format of the whole store: a number that says which versions of pushsvc can use it.

`FORMAT` is raised with a change that an older version would misread although each record says its own version
(`model/codec.py`): another meaning of a key, a name or an index that moved. A process compares it when it opens the
store, before it reads or writes anything else:

| stored      | what happens                                                                                  |
|-------------|-----------------------------------------------------------------------------------------------|
| `FORMAT`    | it is used                                                                                    |
| 1           | it is brought forward, and gets `FORMAT`; `StoreFormat` while processes use it                |
| nothing     | the store is new, or was written before there was a number, which was format 1: the same      |
| another one | `StoreFormat`: nothing is read or written, and the error says what to do                      |

What brings a store forward may be done by several processes at once, and again after a crash.

| format | what has changed                                                                                   |
|--------|----------------------------------------------------------------------------------------------------|
| 2      | the turns of a large push stand in one field for many deliveries (`queue/turns.lua`); the list of  |
|        | pushes has no lifetime as a whole, only each of its entries (`pushes/listing.py`)                  |

The rules for an upgrade and a rollback are in `pushsvc/docs/guides/upgrade.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import StoreFormat
from .. import keys
from ..config import StoreConfig
from ..link.link import Link
from ..work.workers import RedisWorkers

FORMAT: Final = 2
"""The format that this version reads and writes."""
_KEYS: Final = 1000
"""Names of keys that are examined in one round trip."""
_FIELDS: Final = 2000
"""Records of turns that one step rewrites, about."""


async def require_format(link: Link) -> None:
    """Raise `StoreFormat` for a store that this version must not use. Brings one of format 1 forward, and marks a store
    that has no format yet."""
    # Read first: a reader may open a Redis that accepts no writes.
    while (stored := await link.call("GET", keys.FORMAT)) in (None, b"1"):
        if stored and await _is_used(link, stored):
            raise StoreFormat(
                f"the store has format 1, this version of pushsvc uses format {FORMAT}, and processes of an older "
                "version run",
                "stop every part of the older version first: what starts after that brings the store forward",
            )
        await _bring_forward(link)
        await link.script("set_format", [keys.FORMAT], [stored or b"", FORMAT])
    if (fault := judge_format(stored)) is not None:
        raise fault


async def _is_used(link: Link, stored: bytes) -> bool:
    """Return whether processes run that were started with this format of the store."""
    # Those that run may be new ones, of which the first has raised the format meanwhile.
    running = await RedisWorkers(link, StoreConfig()).living()
    return bool(running) and await link.call("GET", keys.FORMAT) == stored


async def _bring_forward(link: Link) -> None:
    cursor: str | None = ""
    while cursor is not None:
        names, cursor = await link.scan("ps:{*}:[tr]*", cursor, _KEYS)
        found = [key for name in names if (key := keys.parse(name.decode(errors="replace"))) and key.part.isdecimal()]
        lists = [keys.recent(key.app, int(key.part)) for key in found if key.kind == "recent"]
        await link.many([("PERSIST", name) for name in lists])
        await _forward_turns(link, [key for key in found if key.kind == "t"])


async def _forward_turns(link: Link, pushes: Sequence[keys.KeyName]) -> None:
    places = {}
    for app, part, _, name in pushes:
        prefix = keys.prefix(app, int(part))
        places[f"{prefix}t:{name}", f"{prefix}p:{name}"] = b"0"
    while places:
        calls = [("forward_turns", place, [cursor, _FIELDS]) for place, cursor in places.items()]
        answers = await link.scripts(calls)
        places = {place: cursor for place, cursor in zip(places, answers, strict=True) if int(cursor)}


def judge_format(stored: bytes | None) -> StoreFormat | None:
    """Return why a store of this format cannot be used, or None."""
    text = (stored or b"").decode(errors="replace")
    if text == str(FORMAT):
        return None
    if not text.isascii() or not text.isdecimal():
        return StoreFormat(
            f"the store's format ({keys.FORMAT}) is {text[:20]!r}, which is not a number",
            "is `redis.url` the Redis of pushsvc? If so, restore the key from a backup",
        )
    if int(text) > FORMAT:
        return StoreFormat(
            f"the store has format {text}, and this version of pushsvc reads format {FORMAT} alone",
            "run the newer version that wrote it, or restore a backup from before the upgrade",
        )
    return StoreFormat(
        f"the store has format {text}, and this version of pushsvc reads format {FORMAT} alone",
        "run the version that wrote it, and upgrade by the versions in between",
    )
