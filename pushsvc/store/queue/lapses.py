"""The entries of a lane that have expired behind those that were read.

A route that is held reads no more than fits into memory. What stands behind that waits in the stream, and its `ttl`
may be over long before it is read: hours in an outage, and weeks where the account was taken out of the configuration.
So the stream is looked through, page by page, for entries whose time is over.
"""

from __future__ import annotations

from ...model.codec import decode_entry
from .. import keys
from ..link.link import Link
from .entries import LaneRead, entries_of
from .lanes import LaneState

_TARGETS = 10_000
"""The approximate number of targets of one page: some megabytes."""
_ENTRIES = 1000
"""The maximum number of entries of one page."""


async def take_lapsed(link: Link, consumer: str, state: LaneState, now: int) -> LaneRead:
    """Return the entries of the next page that had expired at `now`, in Unix ms, and that no consumer has. The first
    page follows the last."""
    history = link.history
    count = max(1, min(_ENTRIES, int(_TARGETS / state.expected)))
    first = f"({state.looked}" if state.looked else "-"
    page = await link.call("XRANGE", state.key, first, "+", "COUNT", count)
    state.looked = page[-1][0].decode() if len(page) == count else ""
    ids = [
        entry_id.decode()
        for entry_id, fields in page
        if entry_id.decode() not in state.held and _is_over(fields.get(b"c", b""), now)
    ]
    if not ids:
        return LaneRead(state, [], history)
    link.require(history)  # at another primary these ids may be those of others
    flat = await link.read("lapse", [state.key], [keys.DISPATCH, consumer, *ids])
    return LaneRead(state, entries_of(flat), history)


def _is_over(blob: bytes, now: int) -> bool:
    chunks, _ = decode_entry(blob)  # what cannot be read is set aside when it is taken
    return bool(chunks) and all(chunk.expires_at <= now for chunk in chunks)
