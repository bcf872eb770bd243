"""Renders a `Content` for FCM: the JSON of the HTTP v1 `message` object, without its target. Pure.

The object is built as plain dicts. firebase-admin's own `messaging.Message` and its encoder are the reference: a test
renders the same contents with both and compares them (they differ only in the case of `android.priority`, where ours
follows the REST reference). This takes 3 to 5 microseconds a push, firebase-admin 30 to 50, and every call pays for
it.

    notification.title, body, image    message.notification       .channel    android.notification.channel_id
    .subtitle    Apple devices only: apns aps.alert               .sound      android.notification.sound, aps.sound
    .badge       aps.badge; of a push that shows something, and above 0, android.notification.notification_count
    .thread      aps.thread-id
    .category    android.notification.click_action, aps.category (Firebase's own pairing)
    .link        data.link (unless `data` has one) and, if https, webpush.fcm_options.link
    collapse     android.collapse_key, android.notification.tag, apns-collapse-id
    live_activity    message.apns.payload.aps, and nothing else but `data`

A Live Activity is reached by its own token beside the registration token, in `overrides.fcm.apns.live_activity_token`:
one push for each (https://firebase.google.com/docs/cloud-messaging/customize-messages/live-activity).

Without `collapse`, the tag and apns-collapse-id of visible pushes are the push's id, so that a repeat after a crash
replaces the first notification; the start of a Live Activity has this id too, so that a repeat does not start another.
`overrides.fcm` is merged over all this (RFC 7396), in either spelling of the field names. A push that has nothing but
`overrides.fcm` is sent byte for byte; the neutral `ttl`, `priority` and `collapse` beside it are merged in if given.

Sources: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages and
https://firebase.google.com/docs/cloud-messaging/customize-messages/cross-platform
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Final

from msgspec import Raw

from ...errors import Fault
from ...model.push import Content, Message, Notification, Platform
from ...ports.provider import RenderError
from ..badges import COUNT, is_marked, marked
from ..live_activity import aps_of
from ..merge import NotAnObjectError, decode_object, encode, merge_patch, within
from .addresses import ADDRESSES, TOPICS
from .limits import LIMIT, TOPIC_LIMIT, size_of
from .spans import Places, Spans
from .warnings import warnings_of

PLATFORM: Final[Platform] = "fcm"

_COLLAPSE_ID: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?").fullmatch
_RESERVED: Final = frozenset({"from", "message_type"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")
_SEEN: Final = ("alert", "badge", "sound")
_BLOCKS: Final = ("notification", "data", "android", "android_v2", "androidV2", "webpush", "apns")
_SPELLINGS: Final[tuple[tuple[tuple[str, ...], str, str], ...]] = (
    (("android",), "collapseKey", "collapse_key"),
    (("android", "notification"), "channelId", "channel_id"),
    (("android", "notification"), "clickAction", "click_action"),
    (("android", "notification"), "notificationCount", "notification_count"),
    (("apns",), "fcmOptions", "fcm_options"),
    (("apns",), "liveActivityToken", "live_activity_token"),
    (("webpush",), "fcmOptions", "fcm_options"),
)
"""Fields that are rendered here and that proto3 JSON lets a caller spell in another way: both at once are an error."""


class FcmRenderer:
    """The pure half of FCM."""

    platform: Platform = PLATFORM

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ("token",)) -> list[Fault]:
        """Return what Google's documentation forbids about it."""
        return warnings_of(content, message, _limit(kinds))

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ("token",)) -> Message:
        """Return the message for every target of the push. Raises `RenderError` with every fault at once."""
        faults: list[Fault] = []
        raw = content.overrides.get(PLATFORM)
        own = {} if raw is None else _own(raw, faults)
        spans = None if content.ttl is None else Spans(push_id, content.ttl, starts_at // 1000)
        places = Places()
        if content.live_activity is not None:
            message = _activity(content, push_id, starts_at // 1000, own, spans, faults)
        else:
            message = _message(content, push_id, own, spans, faults)
        if raw is not None and own:
            _check_nulls(own, message, faults)
        if own and message:
            if "androidV2" in own or "android_v2" in own:
                message.pop("android", None)  # FCM takes one of the two
            message = merge_patch(message, _respelt(own))
            body, places = _encode(message, spans)
        elif raw is not None and own:
            message, body = own, bytes(raw).strip()
        else:
            body, places = _encode(message, spans)
        if not message and not faults:
            faults.append(Fault("overrides.fcm", "is missing: there is nothing to send to FCM devices"))
        if faults:
            raise RenderError(faults)
        counts = is_marked(body, content.notification, push_id)
        # JSON is never shorter than the keys and values in it, so a short body need not be measured.
        limit = _limit(kinds)
        if len(body) > limit and (size := size_of(message)) > limit:
            path = "notification" if content.notification else "data" if content.data else "overrides.fcm"
            path = "live_activity" if content.live_activity is not None else path
            text = f"notification and data are {size:,} bytes for FCM, the limit is {limit:,}"
            raise RenderError([Fault(path, text)], too_large=True)
        if content.collapse is None or not _collapses(message, content.collapse):
            return Message(PLATFORM, body, {}, *places, counts=counts)
        return Message(PLATFORM, body, {}, *places, collapse=content.collapse, since=starts_at, counts=counts)


def _collapses(message: dict[str, Any], collapse: str) -> bool:
    """Return whether `collapse` has its own name for every kind of device in the caller's message."""
    names = (
        within(message, "android").get("collapse_key"),
        within(message, "android", "notification").get("tag"),
        within(message, "apns", "headers").get("apns-collapse-id"),
    )
    return {name for name in names if name is not None} == {collapse}


def _limit(kinds: Collection[str]) -> int:
    return LIMIT if TOPICS.isdisjoint(kinds) else TOPIC_LIMIT


def _encode(message: dict[str, Any], spans: Spans | None) -> tuple[bytes, Places]:
    return (encode(message), Places()) if spans is None else spans.encode(message)


# --- ours ---------------------------------------------------------------------------------------


def _message(
    content: Content, push_id: str, own: dict[str, Any], spans: Spans | None, faults: list[Fault]
) -> dict[str, Any]:
    """Return the message that the neutral fields make; empty when there are none. `own` is what the caller gave: it may
    show what the neutral fields do not."""
    notification, data = content.notification, content.data
    common: dict[str, Any] = {}
    android: dict[str, Any] = {}
    tray: dict[str, Any] = {}
    aps: dict[str, Any] = {}
    apns_options: dict[str, Any] = {}
    webpush: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if notification is not None:
        _show(notification, push_id, common, tray, aps)
        if notification.image is not None:
            apns_options["image"] = notification.image
        if notification.link is not None:
            data = {"link": notification.link, **(data or {})}
            if notification.link.startswith("https://"):
                webpush["fcm_options"] = {"link": notification.link}
    # A badge or a sound alone is something to an Apple device; on Android it would be a message without a text.
    displayed = bool(common)
    seen = displayed or any(key in aps for key in _SEEN)
    collapse = content.collapse
    if content.silent and seen:
        faults.append(Fault("silent", "a silent push shows nothing: leave out `silent`, or what is seen"))
    if notification is not None or data or content.silent:
        displayed = displayed or _displays(own)
        seen = seen or displayed or _alerts(own)
    if displayed:
        tray["tag"] = push_id if collapse is None else collapse
    elif seen:
        tray.clear()
    elif content.silent or data or tray or aps:
        # A category or a channel without anything to see is not a notification: the app is woken.
        tray.clear()
        apns_options.clear()
        aps = {"content-available": 1}
        headers["apns-push-type"] = "background"
    if collapse is not None:
        android["collapse_key"] = collapse
    if seen or aps or content.priority is not None:
        android["priority"] = (
            "HIGH" if content.priority == "high" or (content.priority is None and displayed) else "NORMAL"
        )
        quiet = content.priority == "normal" or (content.priority is None and not seen)
        if quiet or "apns-push-type" in headers:
            headers["apns-priority"] = "5"  # also what Apple asks of every background push
    if content.ttl is not None and spans is not None:
        android["ttl"] = f"{spans.seconds}s"
        headers["apns-expiration"] = spans.until
        webpush["headers"] = {"TTL": spans.seconds}
    collapse_id = push_id if collapse is None and seen else collapse
    if collapse_id is not None and _COLLAPSE_ID(collapse_id) is not None:
        headers["apns-collapse-id"] = collapse_id
    if data:
        _check_data(data, "data", faults)
    if tray:
        android["notification"] = tray
    apns = _given(headers=headers, payload={"aps": aps} if aps else {}, fcm_options=apns_options)
    return _given(notification=common, data=data, android=android, apns=apns, webpush=webpush)


def _show(
    notification: Notification, push_id: str, common: dict[str, Any], tray: dict[str, Any], aps: dict[str, Any]
) -> None:
    if notification.title is not None:
        common["title"] = notification.title
    if notification.body is not None:
        common["body"] = notification.body
    if notification.image is not None:
        common["image"] = notification.image
        aps["mutable-content"] = 1
    if notification.subtitle is not None:
        # This alert takes the place of the common one, so it is whole.
        alert = {"title": notification.title, "subtitle": notification.subtitle, "body": notification.body}
        aps["alert"] = {key: value for key, value in alert.items() if value is not None}
    if notification.sound is not None:
        tray["sound"] = aps["sound"] = notification.sound
    if notification.badge is not None:
        aps["badge"] = marked(notification.badge, push_id)
        if notification.badge:
            # "If zero or unspecified, systems that support badging use the default, which is to increment a number
            # displayed on the long-press menu": there is no way to clear it.
            tray[COUNT] = marked(notification.badge, push_id)
    if notification.channel is not None:
        tray["channel_id"] = notification.channel
    if notification.category is not None:
        tray["click_action"] = aps["category"] = notification.category
    if notification.thread is not None:
        aps["thread-id"] = notification.thread


def _given(**fields: Any) -> dict[str, Any]:
    """Return those of the fields that hold something."""
    return {name: value for name, value in fields.items() if value}


def _activity(
    content: Content, push_id: str, start: int, own: dict[str, Any], spans: Spans | None, faults: list[Fault]
) -> dict[str, Any]:
    """Return the message of a Live Activity, whose token the caller gives in `own`. `start` is in Unix seconds."""
    assert content.live_activity is not None
    apns = within(_respelt(own), "apns")
    if not isinstance(apns.get("live_activity_token"), str):
        text = "is missing: FCM reaches a Live Activity by it, beside the registration token"
        faults.append(Fault("overrides.fcm.apns.live_activity_token", text))
    if content.silent:
        faults.append(Fault("silent", "a Live Activity is seen: leave out `silent`"))
    if content.push_type not in (None, "liveactivity"):
        faults.append(Fault("push_type", "a Live Activity is of type `liveactivity`"))
    headers = {"apns-priority": "5" if content.priority == "normal" else "10"}
    if spans is not None:
        headers["apns-expiration"] = spans.until
    collapse = content.collapse
    if collapse is None and content.live_activity.event == "start":
        collapse = push_id  # a repeat must not start a second one
    if collapse is not None and _COLLAPSE_ID(collapse) is not None:
        headers["apns-collapse-id"] = collapse
    aps = aps_of(content.live_activity, content.notification, start)
    if content.data:
        _check_data(content.data, "data", faults)
    # Read again, so that what the caller gave raw in it can be merged with.
    payload = decode_object(encode({"aps": aps}))
    return {**({"data": content.data} if content.data else {}), "apns": {"headers": headers, "payload": payload}}


# --- the caller's own ---------------------------------------------------------------------------


def _own(raw: Raw, faults: list[Fault]) -> dict[str, Any]:
    """Return the caller's own message object. Adds a fault for each field that it must not contain."""
    try:
        own = decode_object(raw)
    except NotAnObjectError as error:
        faults.append(Fault("overrides.fcm", str(error)))
        return {}
    faults.extend(
        Fault(f"overrides.fcm.{name}", "the target is given in `to`") for name in (*ADDRESSES, "name") if name in own
    )
    for name in ("message", "validate_only", "validateOnly"):
        if name in own:
            remedy = "give the fields of `message` themselves" if name == "message" else "use `dry_run`"
            faults.append(Fault(f"overrides.fcm.{name}", f"stands outside the message: {remedy}"))
    for name in _BLOCKS:
        block = own.get(name)
        if block is not None and not isinstance(block, dict):
            faults.append(Fault(f"overrides.fcm.{name}", "must be a JSON object"))
    _check_data(own.get("data"), "overrides.fcm.data", faults)
    for name in ("android", "androidV2", "android_v2"):
        block = own.get(name)
        if isinstance(block, dict):
            _check_data(block.get("data"), f"overrides.fcm.{name}.data", faults)
    return own


def _displays(own: dict[str, Any]) -> bool:
    """Return whether the caller's own fields make a notification that is displayed, on Android too."""
    return bool(own.get("notification") or within(own, "android").get("notification"))


def _alerts(own: dict[str, Any]) -> bool:
    """Return whether the caller's own fields are noticed on an Apple device."""
    aps = within(own, "apns", "payload", "aps")
    return any(key in aps for key in _SEEN)


def _check_data(data: object, path: str, faults: list[Fault]) -> None:
    if not isinstance(data, dict):
        return
    for key, value in data.items():
        if key in _RESERVED or key.startswith(_RESERVED_PREFIXES):
            faults.append(Fault(f"{path}.{key}", "is a name that FCM keeps for itself"))
        elif not isinstance(value, str) and value is not None:
            faults.append(Fault(f"{path}.{key}", "must be a string: FCM carries no other values"))


_DATA: Final = (("data",), ("android", "data"), ("androidV2", "data"), ("android_v2", "data"), ("webpush", "data"))
_MAPS: Final = (*_DATA, ("webpush", "headers"), ("apns", "headers"))
"""The fields that map names of the caller to strings."""


def _check_nulls(own: dict[str, Any], rendered: dict[str, Any], faults: list[Fault]) -> None:
    """Add a fault for each null that removes nothing from a map of strings.

    A null removes what is rendered here (RFC 7396). In a map of strings, one that removes nothing was meant as a
    value, which FCM refuses: it would be sent if nothing is rendered, and vanish silently otherwise. Which headers are
    rendered depends on other fields, so a null that removes nothing is harmless there.
    """
    for names in _DATA if rendered else _MAPS:
        known = within(rendered, *names)
        faults.extend(
            Fault(".".join(("overrides.fcm", *names, key)), "must be a string; null only removes what pushsvc renders")
            for key, value in within(own, *names).items()
            if value is None and key not in known
        )


def _respelt(own: dict[str, Any]) -> dict[str, Any]:
    """Return the caller's fields in the spelling that is rendered here."""
    for parents, theirs, ours in _SPELLINGS:
        block = within(own, *parents)
        if theirs in block and ours not in block:
            block[ours] = block.pop(theirs)
    return own


RENDERER: Final = FcmRenderer()
