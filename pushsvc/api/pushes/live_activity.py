"""A Live Activity in the push document: its fields, and the checks that need the whole document. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...decoding import Rule
from ...model.push import ACTIVITY_ALERT, ACTIVITY_EVENTS, ActivityEvent, LiveActivity as PlainLiveActivity
from ...wording import names
from ..http.depth import depth_fault, too_deep
from ..http.instants import Instant, parse_instant

MAX_NAME: Final = 512
"""Characters of a Swift type, and of the id of a channel."""
OBJECTS: Final = ("content_state", "attributes", "alert")
"""The fields with the caller's own JSON."""
_DATES: Final = ("stale_date", "dismissal_date")
_OF_START: Final = ("attributes_type", "attributes", "input_push_channel", "input_push_token")
_Object = Annotated[dict[str, Raw], Rule(fault=depth_fault)]

_plain = msgspec.json.Decoder().decode


class LiveActivity(Struct, forbid_unknown_fields=True, gc=False):
    """A change of a Live Activity (Apple). It is started on `push_to_start` targets, and updated and ended on
    `activity` and `channel` targets. Its alert may also be given as the push's `notification`."""

    event: ActivityEvent
    content_state: Annotated[_Object | None, Meta(description="What it shows. Needed for `start` and `update`.")] = None
    attributes_type: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] | None,
        Meta(description="Its Swift type. Needed for `start`."),
    ] = None
    attributes: Annotated[_Object | None, Meta(description="Its constant data. Needed for `start`.")] = None
    alert: Annotated[
        _Object | None, Meta(description="Apple's alert: `title`, `body`, `sound`. Needed for `start`.")
    ] = None
    stale_date: Annotated[Instant | None, Meta(description="When its content becomes outdated.")] = None
    dismissal_date: Annotated[
        Instant | None,
        Meta(description="When the ended activity leaves the Lock Screen; at once, if in the past."),
    ] = None
    relevance_score: Annotated[
        int | float | None,
        Meta(description="The activity with the highest score is in the Dynamic Island."),
    ] = None
    input_push_channel: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_NAME)] | None,
        Meta(description="The broadcast channel that updates the started activity (iOS 18)."),
    ] = None
    input_push_token: Annotated[
        bool | None, Meta(description="Whether the started activity gets a token of its own for updates (iOS 18).")
    ] = None


_FIELDS: Final = LiveActivity.__struct_fields__


def judge(activity: LiveActivity) -> PlainLiveActivity | None:
    """Return the activity of the model, or None where a field has a fault."""
    given = {name: getattr(activity, name) for name in _FIELDS}
    try:
        for name in OBJECTS:
            if too_deep({key: _plain(raw) for key, raw in (given[name] or {}).items()}):
                return None
        for name in _DATES:
            given[name] = None if given[name] is None else parse_instant(given[name]) // 1000
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return PlainLiveActivity(**{**given, "input_push_token": given["input_push_token"] or False})


def disagreements(activity: LiveActivity, shown: Collection[str], *, silent: bool) -> Iterator[tuple[str, str]]:
    """Yield the fields that are missing or exclude one another, each with what is wrong; the empty name is the whole.
    `shown` names the fields of the notification. A field that is `WRONG` has its fault already."""
    event = activity.event
    has = {name for name in _FIELDS if (value := getattr(activity, name)) is not None and value is not False}
    alerts = bool(activity.alert) or "title" in shown or "body" in shown
    if event in ("start", "update") and "content_state" not in has:
        yield "content_state", f"is missing: it is the content that the activity shows after `{event}`"
    if event == "start":
        for name in ("attributes_type", "attributes"):
            if name not in has:
                yield name, "is missing: it names the activity to start"
        if not alerts:
            yield "alert", "is missing: the start of an activity alerts the user; give it here or as `notification`"
    elif event in ACTIVITY_EVENTS:
        for name in _OF_START:
            if name in has:
                yield name, f"belongs to `start`, not to `{event}`"
    if event in ("start", "update") and "dismissal_date" in has:
        yield "dismissal_date", f"belongs to `end`, not to `{event}`"
    if {"input_push_channel", "input_push_token"} <= has:
        yield "input_push_token", "excludes `input_push_channel`: one of them updates the activity"
    if activity.alert and shown:
        yield "alert", "is given twice: here and in `notification`"
    elif foreign := [name for name in shown if name not in ACTIVITY_ALERT]:
        yield "", f"its alert uses only {names(ACTIVITY_ALERT)} of the notification: omit {names(foreign)}"
    if silent:
        yield "", "is visible: omit `silent`"
