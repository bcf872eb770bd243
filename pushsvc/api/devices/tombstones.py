"""The documents of `POST /v1/devices/restore`. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from ...bodies import read_document
from ...ports.registry import PrunedFilter
from ..http.instants import Instant, parse_bounds
from ..letters.document import Text

MOST: Final = 10_000
"""The maximum number of devices that one call restores, so that it answers within seconds."""


class RestoreDocument(Struct, forbid_unknown_fields=True):
    """Selects pruned devices to restore; a field that is left out does not narrow."""

    platform: Annotated[Text | None, Meta(examples=["apns", "fcm"])] = None
    reason: Annotated[Text | None, Meta(description="Only devices that were pruned for this reason.")] = None
    since: Annotated[Instant | None, Meta(description="Only devices pruned by an answer at this instant or later.")] = (
        None
    )
    until: Annotated[Instant | None, Meta(description="Only devices pruned by an answer before this instant.")] = None
    dry_run: Annotated[bool | None, Meta(description="Only count the devices.")] = None


class Restored(Struct, frozen=True):
    """The result of a restore. While `left` is more than 0, a repeat of the call restores more."""

    restored: int
    left: Annotated[int, Meta(description="The number of matching devices that are still pruned.")]


def read_restore(body: bytes) -> tuple[PrunedFilter, bool]:
    """Return the filter, and whether it is a dry run. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    asked = read_document(body, RestoreDocument)
    span = parse_bounds(asked.since, asked.until)
    return PrunedFilter(asked.platform or "", asked.reason or "", *span), asked.dry_run or False
