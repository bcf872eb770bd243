"""The format of the whole store: a number that says which versions of pushsvc can use it.

`FORMAT` is raised with a change that an older version would misread although each record says its own version
(`model/codec.py`): another meaning of a key, a name or an index that moved. A process compares it when it opens the
store, before it reads or writes anything else:

| stored      | what happens                                                                                  |
|-------------|-----------------------------------------------------------------------------------------------|
| `FORMAT`    | it is used                                                                                    |
| nothing     | the store is new: it gets `FORMAT`                                                            |
| another one | `StoreFormat`: nothing is read or written, and the error says what to do                      |

The rules for an upgrade and a rollback are in `pushsvc/docs/guides/upgrade.md`.
"""

from __future__ import annotations

from typing import Final

from ..errors import StoreFormat
from . import keys
from .link.link import Link

FORMAT: Final = 2
"""The format that this version reads and writes."""


async def require_format(link: Link) -> None:
    """Raise `StoreFormat` for a store that this version must not use. Marks a store that has no format yet."""
    # Read first: a reader may open a Redis that accepts no writes.
    if (stored := await link.call("GET", keys.FORMAT)) is None:
        await link.call("SET", keys.FORMAT, FORMAT, "NX")
        stored = await link.call("GET", keys.FORMAT)
    if (fault := judge_format(stored)) is not None:
        raise fault


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
    fix = "run the version that wrote it, and upgrade by the versions in between"
    if int(text) > FORMAT:
        fix = "run the newer version that wrote it, or restore a backup from before the upgrade"
    return StoreFormat(f"the store has format {text}, and this version of pushsvc reads format {FORMAT} alone", fix)
