"""A Live Activity in the push document: its fields, and what needs the whole document. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...decoding import Rule
from ...model.push import ACTIVITY_ALERT, ACTIVITY_EVENTS, ActivityEvent
from ...model.push import LiveActivity as PlainLiveActivity
from ...wording import names
from ..http.depth import depth_fault, too_deep
from ..http.instants import Instant, parse_instant

OBJECTS: Final = ("content_state", "attributes", "alert")
"""The fields that are the caller's own JSON."""
_DATES: Final = ("stale_date", "dismissal_date")
_OF_START: Final = ("attributes_type", "attributes", "input_push_channel", "input_push_token")
_Object = Annotated[dict[str, Raw], Rule(fault=depth_fault)]

_plain = msgspec.json.Decoder().decode


class LiveActivity(Struct, forbid_unknown_fields=True, gc=False):
    """What becomes of a Live Activity (Apple). It is started on `push_to_start` targets, updated and ended on
    `activity` and `channel` targets; its alert may also be given as the push's `notification`."""

    event: ActivityEvent
    content_state: Annotated[_Object | None, Meta(description="What it shows. Needed to start and to update it.")] = (
        None
    )
    attributes_type: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="Its Swift type. Needed to start it.")
    ] = None
    attributes: Annotated[_Object | None, Meta(description="What stays as it is in it. Needed to start it.")] = None
    alert: Annotated[
        _Object | None, Meta(description="Apple's alert: `title`, `body`, `sound`. Needed to start it.")
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


_FIELDS: Final = LiveActivity.__struct_fields__


def judge(activity: LiveActivity) -> PlainLiveActivity | None:
    """Return it in the words of the model, or None where a field has a fault."""
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
    """Yield the fields that miss or exclude one another, each with what is wrong; the empty name is the whole.

    `shown` names the fields of the notification. A field that is `WRONG` has its fault already.
    """
    event = activity.event
    has = {name for name in _FIELDS if (value := getattr(activity, name)) is not None and value is not False}
    alerts = bool(activity.alert) or "title" in shown or "body" in shown
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
    if activity.alert and shown:
        yield "alert", "is said twice: here and by `notification`"
    elif foreign := [name for name in shown if name not in ACTIVITY_ALERT]:
        yield "", f"its alert has {names(ACTIVITY_ALERT)} of the notification: leave out {names(foreign)}"
    if silent:
        yield "", "is seen: leave out `silent`"
