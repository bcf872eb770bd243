"""Decoders for FCM's schema (`rules/fcm_schema.py`): msgspec types that accept nearly every valid body at once. What
they refuse is passed to `violations`, which decides and explains in Google's wording."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ...rules.fcm_schema import DURATION, SCHEMA, TIMESTAMP, camel

_SCALARS: Final[dict[str, Any]] = {
    "string": str,
    "boolean": bool,
    "int32": Annotated[int, Meta(ge=-(2**31), lt=2**31)],
    "number": float,
    "duration": Annotated[str, Meta(pattern=DURATION)],
    "timestamp": Annotated[str, Meta(pattern=TIMESTAMP)],
    "any": msgspec.Raw,
}


def _struct(name: str, *, in_camel: bool) -> type[Struct]:
    def annotation(kind: str) -> Any:
        if kind.startswith("["):
            return list[annotation(kind[1:-1])]  # type: ignore[misc]  # the type is made from the table
        if kind.startswith("{"):
            return dict[str, annotation(kind[1:-1])]  # type: ignore[misc]  # the type is made from the table
        if "|" in kind:
            words = kind.split("|")
            return Literal[(*words, *(word.lower() for word in words))]
        return _SCALARS[kind] if kind in _SCALARS else _struct(kind, in_camel=in_camel)

    fields = [(field, annotation(kind) | None, None) for field, kind in SCHEMA[name].items()]
    rename = {field: camel(field) for field in SCHEMA[name]} if in_camel else None
    return msgspec.defstruct(name, fields, rename=rename, forbid_unknown_fields=True)


FAST: Final[tuple[msgspec.json.Decoder[Any], ...]] = tuple(
    msgspec.json.Decoder(_struct("SendMessageRequest", in_camel=in_camel)) for in_camel in (False, True)
)
"""Decoders of a valid body that spells its names in one way throughout."""
