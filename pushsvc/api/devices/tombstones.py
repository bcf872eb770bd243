"""What `POST /v1/devices/restore` takes and answers. Pure."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct

from ...ports.registry import PrunedFilter
from ..http.instants import Instant, parse_instant
from ..http.refusal import read_document
from ..letters.document import Text

MOST: Final = 10_000
"""Devices that one call restores at most: it answers within seconds."""


class RestoreDocument(Struct, forbid_unknown_fields=True):
    """Which pruned devices to restore; what is left out does not narrow."""

    platform: Annotated[Text | None, Meta(examples=["apns", "fcm"])] = None
    reason: Annotated[Text | None, Meta(description="Those that were pruned for this reason.")] = None
    since: Annotated[Instant | None, Meta(description="Those that were pruned by an answer of then or later.")] = None
    until: Annotated[Instant | None, Meta(description="Those that were pruned by an answer before then.")] = None
    dry_run: Annotated[bool | None, Meta(description="Only count them.")] = None


class Restored(Struct, frozen=True):
    """What was restored. While `left` is more than 0, the same call restores more."""

    restored: int
    left: Annotated[int, Meta(description="Pruned devices that the filter means and that are still pruned.")]


def read_restore(body: bytes) -> tuple[PrunedFilter, bool]:
    """The filter, and whether it is a dry run. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    asked = read_document(body, RestoreDocument)
    since, until = (None if text is None else parse_instant(text) for text in (asked.since, asked.until))
    return PrunedFilter(asked.platform or "", asked.reason or "", since, until), asked.dry_run or False
