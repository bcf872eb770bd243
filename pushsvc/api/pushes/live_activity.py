"""A Live Activity in the push document: read fast when it is right, and named fault by fault when it is not. Pure.

What needs the whole document stands in `disagreements`, once: the fast way asks it about the struct's fields, the walk
over faults about those of the plain JSON.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...model.push import ACTIVITY_ALERT, ACTIVITY_EVENTS, ActivityEvent, Notification
from ...model.push import LiveActivity as PlainLiveActivity
from ..http.depth import MAX_DEPTH, too_deep
from ..http.instants import Instant, parse_instant
from ..http.wording import expected, names

_OBJECTS: Final = ("content_state", "attributes", "alert")
_DATES: Final = ("stale_date", "dismissal_date")
_OF_START: Final = ("attributes_type", "attributes", "input_push_channel", "input_push_token")

_plain = msgspec.json.Decoder().decode


class LiveActivity(Struct, forbid_unknown_fields=True, gc=False):
    """What becomes of a Live Activity (Apple). It is started on `push_to_start` targets, updated and ended on
    `activity` and `channel` targets; its alert may also be given as the push's `notification`."""

    event: ActivityEvent
    content_state: Annotated[
        dict[str, Raw] | None, Meta(description="What it shows. Needed to start and to update it.")
    ] = None
    attributes_type: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="Its Swift type. Needed to start it.")
    ] = None
    attributes: Annotated[dict[str, Raw] | None, Meta(description="What stays as it is in it. Needed to start it.")] = (
        None
    )
    alert: Annotated[
        dict[str, Raw] | None, Meta(description="Apple's alert: `title`, `body`, `sound`. Needed to start it.")
    ] = None
    stale_date: Annotated[Instant | None, Meta(description="When what it shows is outdated.")] = None
    dismissal_date: Annotated[
        Instant | None, Meta(description="When an ended one leaves the Lock Screen; one in the past: at once.")
    ] = None
    relevance_score: Annotated[
        int | float | None, Meta(description="Of several, the one with the highest is in the Dynamic Island.")
    ] = None
    input_push_channel: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="The broadcast channel by which the started one is updated (iOS 18)."),
    ] = None
    input_push_token: Annotated[
        bool | None, Meta(description="The started one gets a token of its own to be updated by (iOS 18).")
    ] = None


FIELDS: Final = LiveActivity.__struct_fields__
_SHOWN: Final = Notification.__struct_fields__


def judge(activity: LiveActivity, notification: Notification | None, *, silent: bool) -> PlainLiveActivity | None:
    """In the words of the model, or None where the walk will find a fault."""
    given = {name: getattr(activity, name) for name in FIELDS}
    shown = () if notification is None else [name for name in _SHOWN if getattr(notification, name) is not None]
    if any(disagreements(given, shown, silent=silent)):
        return None
    try:
        for name in _OBJECTS:
            if too_deep({key: _plain(raw) for key, raw in (given[name] or {}).items()}):
                return None
        for name in _DATES:
            given[name] = None if given[name] is None else parse_instant(given[name]) // 1000
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return PlainLiveActivity(**{**given, "input_push_token": given["input_push_token"] or False})


def fault_of(name: str, value: Any) -> str | None:
    """What is wrong with the value of a field, or None."""
    if name == "event":
        return None if value in ACTIVITY_EVENTS else expected('one of "start", "update", "end"', value)
    if name in _OBJECTS:
        if not isinstance(value, dict):
            return expected("an object", value)
        return f"is nested more than {MAX_DEPTH} levels deep" if too_deep(value) else None
    if name == "input_push_token":
        return None if isinstance(value, bool) else expected("true or false", value)
    if name == "relevance_score":
        right = isinstance(value, int | float) and not isinstance(value, bool)
        return None if right else expected("a number", value)
    if not isinstance(value, str):
        return expected("a string", value)
    if name in _DATES:
        try:
            parse_instant(value)
        except ValueError as error:
            return str(error)
        return None
    return None if value else "must not be empty"


def disagreements(given: dict[str, Any], shown: Collection[str], *, silent: bool) -> Iterator[tuple[str, str]]:
    """Fields that miss or do not bear one another, each with what is wrong; the empty name is the whole.

    `given` are the fields by name, null being the same as leaving out; `shown` names those of the notification.
    """
    event = given.get("event")
    has = {name for name, value in given.items() if value is not None and value is not False}
    alerts = bool(given.get("alert")) or "title" in shown or "body" in shown
    if event is None:
        yield "event", 'is missing: one of "start", "update", "end"'
    if event in ("start", "update") and "content_state" not in has:
        yield "content_state", f"is missing: it is what the activity shows after `{event}`"
    if event == "start":
        for name in ("attributes_type", "attributes"):
            if name not in has:
                yield name, "is missing: it says which activity is started"
        if not alerts:
            yield "alert", "is missing: who is started an activity is told; give it here or as `notification`"
    elif event in ACTIVITY_EVENTS:
        for name in _OF_START:
            if name in has:
                yield name, f"belongs to `start`, not to `{event}`"
    if event in ("start", "update") and "dismissal_date" in has:
        yield "dismissal_date", f"belongs to `end`, not to `{event}`"
    if {"input_push_channel", "input_push_token"} <= has:
        yield "input_push_token", "either this or `input_push_channel`: it is updated by the one or the other"
    if given.get("alert") and shown:
        yield "alert", "is said twice: here and by `notification`"
    elif foreign := [name for name in shown if name not in ACTIVITY_ALERT]:
        yield "", f"its alert has {names(ACTIVITY_ALERT)} of the notification: leave out {names(foreign)}"
    if silent:
        yield "", "is seen: leave out `silent`"
