"""A message as the override of a push that sends the same again, without what belonged to the one push. Pure."""

from __future__ import annotations

from typing import Any

from .badges import filled_in
from .merge import decode_object


def unbound(body: bytes, push_id: str) -> dict[str, Any]:
    """Return the JSON object of a message without the number of unread pushes, and without names that were made of the
    id of the push, by which a device would take the copy for the push itself."""
    found: dict[str, Any] = _without(decode_object(filled_in(body, push_id, None)), push_id)
    return found


def _without(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, text) for name, item in value.items() if item != text}
    return [_without(item, text) for item in value] if isinstance(value, list) else value
