"""Renders a `Content` for APNs: the JSON payload and the headers that the push decides. Pure.

What the caller gives in `overrides.apns.payload` is merged over what is rendered here (RFC 7396). If nothing is
rendered, because there is neither a notification nor data, the caller's bytes are sent exactly as they were posted.

    notification.title, subtitle, body    aps.alert            .category   aps.category
    .sound, .badge                        aps.sound, .badge    .thread     aps.thread-id
    .image    the custom key `image`, and aps.mutable-content so that the app's service extension sees it
    .link     the custom key `link`; APNs has no field of its own for either
    data      keys beside `aps`; they take precedence over `image` and `link`
    live_activity    the whole of `aps`: see `..live_activity`

A push to a broadcast channel needs an expiration, and channels without storage accept only 0. If the push has no
`ttl`, `send` decides, which knows the channels.

The push type is the caller's (`overrides.apns.headers` before `push_type`). Without one, it is derived from the
finished payload if that is unambiguous: `aps.event` with `aps.content-state` is a Live Activity, `content-available`
without alert, badge and sound is `background`, everything else is `alert`. VoIP and the others cannot be derived from
the payload and must be named.

Sources, under https://developer.apple.com/documentation/usernotifications/: generating-a-remote-notification,
sending-notification-requests-to-apns and sending-broadcast-push-notification-requests-to-apns.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from ...errors import Fault
from ...model.push import ACTIVITY_EVENTS, MAX_UNREAD, Content, Message, Notification, Platform
from ...ports.provider import RenderError
from ..badges import filled_in, is_marked, marked
from ..live_activity import aps_of
from ..merge import NotAnObjectError, decode_object, encode, merge_patch, within
from .targets import ADDRESSES, judge
from .vocabulary import (
    ALERT,
    BACKGROUND,
    CHANNEL,
    COLLAPSE_LIMIT,
    HIGH,
    LIVEACTIVITY,
    MDM,
    NORMAL,
    PLATFORM,
    PRIORITIES,
    TOKEN,
    TOPIC_SUFFIX,
    payload_limit,
)
from .warnings import warnings_of

_APNS_HEADER: Final = re.compile(r"apns-[a-z0-9-]{1,60}").fullmatch
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?").fullmatch
_DIGITS: Final = re.compile(r"[0-9]{1,15}").fullmatch
_HEADERS: Final = "overrides.apns.headers"
_PAYLOAD: Final = "overrides.apns.payload"
_SEEN: Final = ("alert", "badge", "sound")
_SHOWN: Final = frozenset(_SEEN)
_OURS: Final = {
    "apns-id": "is made for each delivery; it cannot be given",
    "apns-request-id": "is made for each delivery; it cannot be given",
    "apns-channel-id": "is the target of a broadcast, which is given in `to.tokens`",
}


class _Override(Struct, frozen=True, forbid_unknown_fields=True):
    headers: dict[str, str | int] = {}
    payload: Raw = Raw(b"")


_decode_override = msgspec.json.Decoder(_Override).decode
_NONE: Final = _Override()


class ApnsRenderer:
    """The pure half of APNs."""

    platform: Platform = PLATFORM

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = (TOKEN,)) -> list[Fault]:
        """Return what Apple's documentation forbids about it."""
        return warnings_of(content, message)

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = (TOKEN,)) -> Message:
        """Return the payload and headers for every target of the push. Raises `RenderError` with every fault at
        once."""
        faults: list[Fault] = []
        start = starts_at // 1000
        broadcast = CHANNEL in kinds
        raw = content.overrides.get(PLATFORM)
        override = _NONE if raw is None else _read(raw, faults)
        headers = _own_headers(override, faults) if override.headers else {}
        payload = _payload(content, push_id, start, faults)
        if override.payload:
            own = _own_payload(override.payload, faults)
            exact = payload is None
            if content.live_activity is not None:
                # What the caller gave raw in it is read first, so that its inner fields can be merged too.
                payload = decode_object(encode(payload))
            payload = own if payload is None else merge_patch(payload, own)
            body = bytes(override.payload) if exact else encode(payload)
        elif payload is not None:
            body = encode(payload)
        else:
            if not faults:
                faults.append(Fault(_PAYLOAD, "is missing: there is nothing to send to APNs devices"))
            raise RenderError(faults)
        push_type = _push_type(content, headers, payload, faults)
        event = within(payload, "aps").get("event")
        result = _headers(content, push_type, event, push_id, start, faults)
        if headers:
            result.update(headers)
            _judge(result, push_type, faults)
        if broadcast:
            _judge_broadcast(content, headers, faults)
        judge(kinds, push_type, event, faults, neutral=content.live_activity is not None)
        if faults:
            raise RenderError(faults)
        counts = is_marked(body, content.notification, push_id)
        size = len(filled_in(body, push_id, MAX_UNREAD)) if counts else len(body)
        limit = payload_limit(push_type, broadcast=broadcast)
        if size > limit:
            path = _PAYLOAD if override.payload else _largest(content)
            text = f"the APNs payload is {size:,} bytes, the limit for `{push_type}` is {limit:,}"
            raise RenderError([Fault(path, text)], too_large=True)
        dated = "apns-expiration" if content.ttl and "apns-expiration" not in headers else ""
        collapse = result.get("apns-collapse-id", "")
        if not collapse or (content.collapse is None and "apns-collapse-id" not in headers):
            return Message(PLATFORM, body, result, dated=dated, counts=counts)
        return Message(PLATFORM, body, result, dated=dated, collapse=collapse, since=starts_at, counts=counts)


# --- the payload --------------------------------------------------------------------------------


def _payload(content: Content, push_id: str, start: int, faults: list[Fault]) -> dict[str, Any] | None:
    """Return what we render, or None where the push has neither a notification nor data. `start` is in Unix seconds."""
    notification, data, activity = content.notification, content.data, content.live_activity
    aps: dict[str, Any] = {}
    payload: dict[str, Any] = {"aps": aps}
    if activity is not None:
        aps.update(aps_of(activity, notification, start))
        channel = activity.input_push_channel
        if channel is not None and not ADDRESSES[CHANNEL].fits(channel):
            faults.append(Fault("live_activity.input_push_channel", ADDRESSES[CHANNEL].wrong))
    elif notification is not None:
        _show(notification, push_id, aps, payload)
        if not aps and not payload.keys() - {"aps"}:
            notification = None
    if notification is None and activity is None and not data and not content.silent:
        return None
    shows = activity is not None or not _SHOWN.isdisjoint(aps)
    if content.silent and shows:
        faults.append(Fault("silent", "a silent push shows nothing: leave out `silent`, or what is seen"))
    elif not shows and content.push_type in (None, BACKGROUND):
        # "aps may only contain content-available": category and thread would belong to an alert.
        aps.clear()
        aps["content-available"] = 1
    if data:
        if "aps" in data:
            faults.append(Fault("data.aps", "is Apple's own key: use `overrides.apns.payload`"))
        else:
            payload.update(data)
    return payload


def _show(notification: Notification, push_id: str, aps: dict[str, Any], payload: dict[str, Any]) -> None:
    alert = {}
    if notification.title is not None:
        alert["title"] = notification.title
    if notification.subtitle is not None:
        alert["subtitle"] = notification.subtitle
    if notification.body is not None:
        alert["body"] = notification.body
    if alert:
        aps["alert"] = alert
    if notification.badge is not None:
        aps["badge"] = marked(notification.badge, push_id)
    if notification.sound is not None:
        aps["sound"] = notification.sound
    if notification.thread is not None:
        aps["thread-id"] = notification.thread
    if notification.category is not None:
        aps["category"] = notification.category
    if notification.image is not None:
        aps["mutable-content"] = 1
        payload["image"] = notification.image
    if notification.link is not None:
        payload["link"] = notification.link


# --- the caller's own ---------------------------------------------------------------------------


def _read(raw: Raw, faults: list[Fault]) -> _Override:
    try:
        override = _decode_override(raw)
        # Null is the same as leaving it out.
        return override if bytes(override.payload) != b"null" else _Override(override.headers)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    # Slowly, to name every fault; each value that is right is still looked at.
    try:
        value = decode_object(raw)
    except NotAnObjectError as error:
        faults.append(Fault("overrides.apns", str(error)))
        return _NONE
    faults.extend(
        Fault(f"overrides.apns.{name}", "unknown: only `headers` and `payload` stand here")
        for name in value.keys() - {"headers", "payload"}
    )
    headers = value.get("headers") or {}
    if not isinstance(headers, dict):
        faults.append(Fault(_HEADERS, "must be an object of header names and values"))
        headers = {}
    fit: dict[str, str | int] = {}
    for name, item in headers.items():
        if type(item) in (str, int):
            fit[name] = item
        elif item is not None:
            faults.append(Fault(f"{_HEADERS}.{name}", "must be a string"))
    payload = value.get("payload")
    return _Override(fit, Raw(b"") if payload is None else Raw(encode(payload)))


def _own_payload(raw: Raw, faults: list[Fault]) -> dict[str, Any]:
    try:
        payload = decode_object(raw)
    except NotAnObjectError as error:
        faults.append(Fault(_PAYLOAD, str(error)))
        return {}
    if not payload:
        faults.append(Fault(_PAYLOAD, "is empty"))
    return payload


def _own_headers(override: _Override, faults: list[Fault]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for given, value in override.headers.items():
        name, path, text = given.lower(), f"{_HEADERS}.{given}", str(value)
        if name in _OURS:
            faults.append(Fault(path, _OURS[name]))
        elif name == "authorization" or name.startswith(":"):
            faults.append(Fault(path, "belongs to the connection, not to the push"))
        elif _APNS_HEADER(name) is None:
            faults.append(Fault(path, "is not a header of APNs: their names begin with `apns-`"))
        elif name in headers:
            faults.append(Fault(path, "is given twice"))
        elif len(text) > 1024 or _PRINTABLE(text) is None:
            faults.append(Fault(path, "must be printable ASCII, without spaces at its ends"))
        else:
            headers[name] = text
    return headers


# --- the headers --------------------------------------------------------------------------------


def _push_type(content: Content, headers: dict[str, str], payload: dict[str, Any], faults: list[Fault]) -> str:
    path = f"{_HEADERS}.apns-push-type"
    push_type = headers.get("apns-push-type")
    if push_type is None:
        path, push_type = "push_type", content.push_type
    if content.live_activity is not None:
        if push_type not in (None, LIVEACTIVITY):
            faults.append(Fault(path, f"a Live Activity is of type `{LIVEACTIVITY}`"))
        return LIVEACTIVITY
    if push_type is None:
        return _infer(payload)
    if push_type not in TOPIC_SUFFIX:
        if path != "push_type" and "apns-topic" in headers:
            return push_type  # Apple adds types; with the topic beside it nothing of it need be known here
        more = f"; another needs to be given as `{_HEADERS}.apns-push-type`, with its `apns-topic` beside it"
        faults.append(Fault(path, f"is not one of {', '.join(sorted(TOPIC_SUFFIX))}{more}"))
        return ALERT
    if push_type == MDM and "apns-topic" not in headers:
        text = f"`{MDM}` needs `{_HEADERS}.apns-topic`: the UID of the MDM certificate's subject"
        faults.append(Fault(path, text))
    if path == "push_type" and content.silent and push_type != BACKGROUND:
        faults.append(Fault(path, "a silent push is of type `background`"))
    if push_type == BACKGROUND:
        aps = within(payload, "aps")
        seen = [key for key in _SEEN if key in aps]
        if seen:
            faults.append(Fault(path, f"`background` shows nothing, and the payload has aps.{seen[0]}"))
    return push_type


def _infer(payload: dict[str, Any]) -> str:
    aps = within(payload, "aps")
    if aps.get("event") in ACTIVITY_EVENTS and "content-state" in aps:
        return LIVEACTIVITY
    if aps.get("content-available") == 1 and not any(key in aps for key in _SEEN):
        return BACKGROUND
    return ALERT


def _headers(
    content: Content, push_type: str, event: object, push_id: str, start: int, faults: list[Fault]
) -> dict[str, str]:
    """Return the headers by the neutral fields. `start` is in Unix seconds."""
    normal = content.priority == "normal" or push_type == BACKGROUND
    headers = {"apns-push-type": push_type, "apns-priority": NORMAL if normal else HIGH}
    if content.ttl is not None:
        headers["apns-expiration"] = str(start + content.ttl) if content.ttl else "0"
    collapse = content.collapse
    if collapse is None:
        # One id for the push, so that a repeat after a crash replaces the first instead of standing beside it. An
        # update or end of a Live Activity is the same twice; a second start would be a second activity.
        once = push_type == ALERT or (push_type == LIVEACTIVITY and event == "start")
        if once and len(push_id) <= COLLAPSE_LIMIT:
            headers["apns-collapse-id"] = push_id
    elif _PRINTABLE(collapse) is None:
        faults.append(Fault("collapse", "for APNs it is printable ASCII, without spaces at its ends"))
    else:
        headers["apns-collapse-id"] = collapse
    return headers


def _judge(headers: dict[str, str], push_type: str, faults: list[Fault]) -> None:
    """Add faults that are possible only if the caller wrote the header."""
    if len(headers.get("apns-collapse-id", "")) > COLLAPSE_LIMIT:
        faults.append(Fault(f"{_HEADERS}.apns-collapse-id", f"is longer than {COLLAPSE_LIMIT} bytes"))
    priority = headers["apns-priority"]
    if priority not in PRIORITIES:
        faults.append(Fault(f"{_HEADERS}.apns-priority", f"is not one of {', '.join(PRIORITIES)}"))
    elif priority == HIGH and push_type == BACKGROUND:
        faults.append(Fault(f"{_HEADERS}.apns-priority", "`background` pushes must have priority 5"))
    if "apns-expiration" in headers and _DIGITS(headers["apns-expiration"]) is None:
        faults.append(Fault(f"{_HEADERS}.apns-expiration", "must be a time in Unix seconds, or 0"))


def _judge_broadcast(content: Content, headers: dict[str, str], faults: list[Fault]) -> None:
    """Add faults for headers that a request to a broadcast channel cannot have. `headers` are the caller's own."""
    if content.collapse is not None:
        faults.append(Fault("collapse", "a broadcast channel collapses nothing: leave it out"))
    if "apns-collapse-id" in headers:
        faults.append(Fault(f"{_HEADERS}.apns-collapse-id", "a broadcast channel collapses nothing: leave it out"))
    if "apns-topic" in headers:
        faults.append(Fault(f"{_HEADERS}.apns-topic", "a broadcast channel belongs to the configured topic"))


def _largest(content: Content) -> str:
    """Return the field to blame for the size of a payload."""
    if content.live_activity is not None:
        return "live_activity"
    return "notification" if content.notification else "data"


RENDERER: Final = ApnsRenderer()
