"""What `POST /v1/devices/restore` takes and answers. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from ...errors import Fault, InvalidRequest, MalformedBody
from ...ports.registry import PrunedFilter
from ..http.instants import Instant, parse_instant
from ..http.refusal import explain, utf8
from ..http.wording import expected, join
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
    utf8(body)
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedBody(explain(body, str(error))) from None
    if not isinstance(value, dict):
        raise InvalidRequest(faults=[Fault("$", expected("an object", value))])
    faults: list[Fault] = []
    instants: dict[str, int] = {}
    known = RestoreDocument.__struct_fields__
    for name, given in value.items():
        if name not in known:
            faults.append(Fault(join("", name), f"unknown field; known here: {', '.join(known)}"))
        elif given is not None:
            try:
                if name in ("since", "until"):
                    instants[name] = parse_instant(_text(given))
                elif name == "dry_run":
                    _truth(given)
                else:
                    _short(_text(given))
            except ValueError as error:
                faults.append(Fault(name, str(error)))
    if faults:
        raise InvalidRequest(faults=faults[:1000])
    platform, reason = value.get("platform") or "", value.get("reason") or ""
    return PrunedFilter(platform, reason, instants.get("since"), instants.get("until")), bool(value.get("dry_run"))


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(expected("a string", given))
    return given


def _short(text: str) -> None:
    if not (1 <= len(text) <= 128 and text.isprintable()):
        raise ValueError("must be 1 to 128 printable characters")


def _truth(given: Any) -> None:
    if not isinstance(given, bool):
        raise ValueError(expected("true or false", given))
