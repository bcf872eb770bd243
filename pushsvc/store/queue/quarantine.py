"""The quarantine: an entry that cannot be decoded is moved there, so that it neither stops its stream nor is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ...model.codec import CodecError
from ...telemetry import UNREADABLE, AppRecord, get_logger
from .. import keys
from ..link.link import Link

log = get_logger("store")
_RECORDS: Final[Mapping[str, AppRecord]] = {
    "q": "delivery",
    "receipts": "receipt",
    "events": "event",
    "reported": "event",
}
"""The contents of the streams, by their kind."""


async def set_aside(
    link: Link,
    stream: str,
    group: str,
    quarantine: str,
    entry_id: str,
    error: CodecError,
    *,
    history: int,
    rest: tuple[bytes, bytes, int] | tuple[()] = (),
) -> None:
    """Move an entry to the quarantine, and log that without its content, which may contain tokens. `group` is empty
    where the stream has no consumer group. `history` is that of the link before the entry was read: on another server
    its id may be that of another entry, so that it is left to the next read. `rest` is what is moved of an entry of
    which a part can be read, that part, and the number of its targets."""
    if history != link.history:
        return
    why = str(error).partition(":")[0]
    if not await link.read("quarantine", [stream, quarantine], [group, entry_id, why, *rest]):
        return  # deleted while it was pending, or moved by another process
    if (name := keys.parse(stream)) is not None:
        UNREADABLE.labels(name.app, _RECORDS[name.kind]).inc()
    log.error("entry_quarantined", stream=stream, entry=entry_id, kept_in=quarantine, error=why)
