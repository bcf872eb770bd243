"""Warnings about a payload: keys that are misspelt, of a wrong type, or missing by Apple's documentation. Pure.

A caller's own payload is sent as it is, since Apple adds keys each year. But Apple answers 200 to nearly everything,
and the phone then shows nothing: `apss`, or a badge that is a text. Each rule has its row in
`tests/unit/golden/warnings.toml`, with its source.

Sources: https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification and
https://developer.apple.com/documentation/activitykit/starting-and-updating-live-activities-with-activitykit-push-notifications
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from ..errors import Fault
from ..model.push import ACTIVITY_EVENTS, UNREAD

_Check = Callable[[Any], str]
"""Returns what is expected if the value is wrong, otherwise an empty text."""

LEVELS: Final = ("passive", "active", "time-sensitive", "critical")


def _number(value: Any) -> str:
    return "" if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else "a number"


def _count(value: Any) -> str:
    if isinstance(value, str) and value.endswith(f":{UNREAD}"):
        return ""  # the number is filled in: see badges.py
    return "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number from 0 up"


def _flag(value: Any) -> str:
    return "" if not isinstance(value, bool) and value in (0, 1) else "the number 1"


def _text(value: Any) -> str:
    return "" if isinstance(value, str) else "a string"


def _texts(value: Any) -> str:
    good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return "" if good else "a list of strings"


def _object(value: Any) -> str:
    return "" if isinstance(value, dict) else "an object"


def _share(value: Any) -> str:
    return "" if not _number(value) and 0 <= value <= 1 else "a number from 0 to 1"


def _one_of(*words: str) -> _Check:
    return lambda value: "" if value in words else f"one of {', '.join(words)}"


def _text_or_object(value: Any) -> str:
    return "" if isinstance(value, str | dict) else "a string or an object"


_APS: Final[dict[str, _Check]] = {
    "alert": _text_or_object,
    "badge": _count,
    "sound": _text_or_object,
    "thread-id": _text,
    "category": _text,
    "content-available": _flag,
    "mutable-content": _flag,
    "target-content-id": _text,
    "interruption-level": _one_of(*LEVELS),
    "relevance-score": _number,
    "filter-criteria": _text,
    "stale-date": _number,
    "content-state": _object,
    "timestamp": _number,
    "event": _one_of(*ACTIVITY_EVENTS),
    "dismissal-date": _number,
    "attributes-type": _text,
    "attributes": _object,
    "input-push-token": _flag,
    "input-push-channel": _text,
    "content-changed": lambda value: "" if value is True else "true",
    "url-args": _texts,
}
_ALERT: Final[dict[str, _Check]] = {
    # In a Live Activity title and body may be objects of a key and its arguments.
    **dict.fromkeys(("title", "subtitle", "body"), _text_or_object),
    **dict.fromkeys(("launch-image", "title-loc-key", "subtitle-loc-key", "loc-key", "action-loc-key"), _text),
    **dict.fromkeys(("title-loc-args", "subtitle-loc-args", "loc-args"), _texts),
    "summary-arg": _text,
    "summary-arg-count": _number,
    "action": _text,
    "sound": _text_or_object,
}
_SOUND: Final[dict[str, _Check]] = {"critical": _flag, "name": _text, "volume": _share}


def payload_warnings(payload: Mapping[str, Any], path: str, *, push_type: str) -> Iterator[Fault]:
    """Yield the faults of a payload. `path` is its place in the caller's document."""
    aps = payload.get("aps")
    for name, value in payload.items():
        near = name.strip().lower() == "aps" or difflib.get_close_matches(name.lower(), ["aps"], cutoff=0.8)
        # Beside an `aps`, which a notification makes too, only what is an object may be meant to be one.
        if name != "aps" and near and (aps is None or isinstance(value, dict)):
            yield Fault(f"{path}.{name}", "is data for the app; did you mean `aps`?")
    if aps is None:
        if push_type in ("alert", "background", "liveactivity"):
            yield Fault(f"{path}.aps", f"is missing: a push of type `{push_type}` does nothing without it")
        return
    if not isinstance(aps, dict):
        yield Fault(f"{path}.aps", "is expected to be an object")
        return
    yield from _fields(aps, _APS, f"{path}.aps")
    if isinstance(aps.get("alert"), dict):
        yield from _fields(aps["alert"], _ALERT, f"{path}.aps.alert")
    if isinstance(aps.get("sound"), dict):
        yield from _fields(aps["sound"], _SOUND, f"{path}.aps.sound")
    if push_type == "liveactivity":
        yield from _activity(aps, f"{path}.aps")


def _activity(aps: Mapping[str, Any], path: str) -> Iterator[Fault]:
    event = aps.get("event")
    wanted = ["timestamp", "event"]
    if event != "end":
        wanted.append("content-state")
    if event == "start":
        wanted += ["attributes-type", "attributes", "alert"]
    for name in wanted:
        if name not in aps:
            yield Fault(f"{path}.{name}", "is missing: a Live Activity does not change without it")


def _fields(value: Mapping[str, Any], known: Mapping[str, _Check], path: str) -> Iterator[Fault]:
    for name, item in value.items():
        check = known.get(name)
        if check is None:
            yield Fault(f"{path}.{name}", f"is not a key of Apple's{meant(name, known)}")
        elif item is not None and (expected := check(item)):
            yield Fault(f"{path}.{name}", f"is expected to be {expected}")


def meant(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ..?` if a similar name is known, otherwise an empty text."""
    near = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.75)
    return f"; did you mean `{near[0]}`?" if near else ""
