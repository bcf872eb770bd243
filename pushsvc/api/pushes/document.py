"""The push document: read fast when it is right, walked slowly when it is not.

`read` decodes the body once into typed structs (msgspec, strict) and judges what types cannot say. Only when that
fails does `refusal.refuse` walk the plain JSON to name every fault at once (`faults.walk`). The two agree: what
`read` takes is what the walk finds no fault in; a property test holds them to it.

Decided here, where RFC 8259 leaves it open:

- `null` is the same as leaving a field out, wherever a field may be left out.
- A whole number may be written as `3.0` or `3e0`, as JSON Schema has it (2020-12 validation, section 6.1.1): Lua, PHP
  and others have no other form for a double.
- NaN, Infinity, numbers beyond a double, lone surrogates, and a byte order mark are not JSON: 400.
- Of a name given twice in one object the last counts, as in most parsers; where its other value is wrong, the
  repeat is named as the fault.
- What stands in `overrides` travels byte for byte; it must be an object, at most `depth.MAX_DEPTH` levels deep.
- The same token twice in one push is one delivery (`tokens.py`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from ...errors import ContentTooLarge, Fault
from ...model.devices import (
    MAX_NAME,
    Audience,
    ByDevices,
    ByTopic,
    ByUsers,
    ByWhere,
    Environment,
    ToAll,
    name_fault,
)
from ...model.push import Content, Lane, Platform, Target
from ...model.push import Notification as PlainNotification
from ...rules.where import MAX_LENGTH, WhereError, compile_where
from ..http.depth import too_deep
from ..http.instants import DAYS_AHEAD, Instant, parse_send_at
from ..http.refusal import refuse, utf8
from . import live_activity
from .faults import MAX_BADGE, MAX_TTL, VISIBLE, Rules, has_payload
from .live_activity import LiveActivity
from .tokens import named_for_two, targets_of

# --- the document, as the OpenAPI description shows it ---------------------------------------------
# Plain JSON makes no reference cycles: these structs need not be looked at by the garbage collector (`gc=False`).


class TokenTarget(Struct, forbid_unknown_fields=True, gc=False):
    """One target by what its provider gave it: a device by its `token` (FCM: also `fid`), or at APNs a broadcast
    `channel`, one Live `activity`, or the right to start one (`push_to_start`). Exactly one of these."""

    platform: Annotated[str, Meta(description="A provider that is configured for the app.", examples=["apns", "fcm"])]
    token: Annotated[str | None, Meta(description="The device token (APNs) or registration token (FCM).")] = None
    fid: Annotated[str | None, Meta(description="A Firebase installation id, in place of `token`.")] = None
    topic: Annotated[str | None, Meta(description="A topic that FCM itself keeps, and not `to.topic`.")] = None
    condition: Annotated[
        str | None, Meta(description="A condition over FCM's own topics.", examples=["'news' in topics"])
    ] = None
    channel: Annotated[str | None, Meta(description="The id of a broadcast channel of APNs (iOS 18).")] = None
    activity: Annotated[str | None, Meta(description="The push token of one Live Activity.")] = None
    push_to_start: Annotated[str | None, Meta(description="A token by which Live Activities are started.")] = None
    environment: Annotated[
        Environment | None,
        Meta(
            description="Of an app that has an account in both environments of APNs: to which one the token belongs. "
            "Default: the account `apns`."
        ),
    ] = None


Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class To(Struct, forbid_unknown_fields=True, gc=False):
    """The receivers, named in exactly one of these ways. What is named twice is one delivery."""

    tokens: Annotated[list[TokenTarget], Meta(min_length=1)] | None = None
    devices: Annotated[
        Annotated[list[Name], Meta(min_length=1)] | None, Meta(description="Registered devices, by id.")
    ] = None
    users: Annotated[
        Annotated[list[Name], Meta(min_length=1)] | None, Meta(description="All devices of these users.")
    ] = None
    topic: Annotated[Name | None, Meta(description="All devices that are subscribed to it.", examples=["news"])] = None
    where: Annotated[
        Annotated[str, Meta(max_length=MAX_LENGTH)] | None,
        Meta(
            description="All devices for which an expression is true, over `platform`, `user`, `locale`, `timezone`, "
            "`app_version`, `environment`, `registered`, `last_seen` and `tags.NAME`, with `== != < <= > >= in not and "
            "or` and brackets.",
            examples=["tags.plan == 'pro' and locale in ('de', 'at')"],
        ),
    ] = None
    all: Annotated[bool | None, Meta(description="All devices of the app: `true`, or leave it out.")] = None


_Whole = Annotated[int, Meta(ge=0, le=MAX_BADGE)] | Annotated[float, Meta(ge=0, le=MAX_BADGE)]
_BADGE: Final = (
    "The number on the app's icon (Apple), where 0 removes it. On Android how many items a notification stands for: "
    "there 0 says nothing, and a badge alone shows nothing."
)


class Notification(PlainNotification, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What the user sees, rendered to each provider's own form."""

    title: str | None = None
    subtitle: str | None = None
    body: str | None = None
    image: Annotated[str | None, Meta(description="The URL of a picture.")] = None
    sound: Annotated[str | None, Meta(examples=["default"])] = None
    badge: Annotated[_Whole | None, Meta(description=_BADGE)] = None  # type: ignore[assignment]  # see `judge`
    link: Annotated[str | None, Meta(description="Where a tap leads.")] = None
    category: Annotated[str | None, Meta(description="The APNs category, the Android click action.")] = None
    thread: Annotated[str | None, Meta(description="Notifications of one thread are grouped.")] = None
    channel: Annotated[str | None, Meta(description="The Android notification channel.")] = None


class PushDocument(Struct, forbid_unknown_fields=True, gc=False):
    """One push. Besides `to` it needs `notification`, `live_activity`, `data`, or an override with a payload."""

    to: To
    notification: Notification | None = None
    live_activity: LiveActivity | None = None
    data: Annotated[
        dict[str, str] | None, Meta(description="Values for the app; each is a string.", examples=[{"order": "7"}])
    ] = None
    lane: Annotated[
        Lane | None, Meta(description="Urgent pushes overtake normal ones, normal ones bulk. Default: `normal`.")
    ] = None
    priority: Annotated[
        Literal["high", "normal"] | None,
        Meta(description="How the provider treats it. Default: `high` for what is seen, `normal` for what is silent."),
    ] = None
    push_type: Annotated[
        Annotated[str, Meta(min_length=1, max_length=32)] | None,
        Meta(description="The APNs push type.", examples=["alert", "background", "voip", "liveactivity"]),
    ] = None
    silent: Annotated[
        bool | None, Meta(description="Wakes the app and shows nothing: no visible `notification` beside it.")
    ] = None
    ttl: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_TTL)] | Annotated[float, Meta(ge=0, le=MAX_TTL)] | None,
        Meta(description="Seconds after which it is not sent any more; 0: now or never. Default: 2,419,200 (28 days)."),
    ] = None
    collapse: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="A later push with the same value replaces this one on the device."),
    ] = None
    send_at: Annotated[
        Instant | None,
        Meta(
            description=f"When to send it, at most {DAYS_AHEAD} days ahead; its `ttl` begins then. "
            "Default, and for an instant that has passed: at once."
        ),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Have it checked by the provider and not delivered.")] = None
    overrides: Annotated[
        dict[str, Raw] | None,
        Meta(description="Per platform the provider's own JSON, merged (RFC 7396) over what pushsvc renders."),
    ] = None


class Draft(Struct, frozen=True, gc=False):
    """A push document without fault, in the words of the model."""

    content: Content
    lane: Lane
    targets: dict[Platform, tuple[Target, ...]]
    """By the name of their route."""
    total: int
    send_at: int | None = None
    """Unix milliseconds; None: at once."""
    audience: Audience | None = None
    """Whom it is for where that is to be looked up; then there are no targets."""
    only: frozenset[Platform] | None = None
    """The platforms that it says something to, where these are not all: it has nothing but their overrides."""
    warnings: tuple[Fault, ...] = ()
    """What is odd about whom it is for."""


# --- reading ----------------------------------------------------------------------------------------

_decode = msgspec.json.Decoder(PushDocument).decode
_plain = msgspec.json.Decoder().decode
_NOTHING: Final = Notification()
MAX_CONTENT: Final = 64 * 1024
"""Bytes of what one part of a document may say: more than ten times what a provider takes, with room for blanks."""


def read(body: bytes, rules: Rules, now: int) -> Draft:
    """The push that `body` asks for at `now`, in Unix milliseconds.

    Raises `MalformedBody` (400), or `InvalidRequest` (422) naming every fault.
    """
    try:
        document = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        refuse(body, rules, now)
    if len(body) > MAX_CONTENT:
        _check_size(document)
    draft = judge(document, rules, now)
    if draft is None:
        refuse(body, rules, now)
    # msgspec looks into the strings that it decodes; what it passes on raw it does not read as UTF-8.
    if document.overrides or document.live_activity:
        utf8(body)
    return draft


def _check_size(document: PushDocument) -> None:
    """Look at how much a large document says before anything looks into it: only its receivers may make it large.

    Raises `ContentTooLarge` for what is far beyond any provider's limit.
    """
    raws = {f"overrides.{name}": len(raw) for name, raw in (document.overrides or {}).items()}
    if (activity := document.live_activity) is not None:
        for name in ("content_state", "attributes", "alert"):
            raws[f"live_activity.{name}"] = sum(map(len, (getattr(activity, name) or {}).values()))
    raws["data"] = sum(len(name) + len(text) for name, text in (document.data or {}).items())
    notification = msgspec.structs.astuple(document.notification or _NOTHING)
    raws["notification"] = sum(len(text) for text in notification if isinstance(text, str))
    faults = [
        Fault(path, f"is {size:,} bytes long, at most {MAX_CONTENT:,} are read; the providers take some 4,000")
        for path, size in raws.items()
        if size > MAX_CONTENT
    ]
    if faults:
        raise ContentTooLarge("What the push says is too large for any provider.", faults=faults)


def judge(document: PushDocument, rules: Rules, now: int) -> Draft | None:
    """The draft, or None where the walk will find a fault."""
    notification = None if document.notification == _NOTHING else document.notification
    if notification is not None and isinstance(notification.badge, float):
        if not notification.badge.is_integer():
            return None
        notification = msgspec.structs.replace(notification, badge=int(notification.badge))
    ttl = document.ttl
    if isinstance(ttl, float):
        if not ttl.is_integer():
            return None
        ttl = int(ttl)
    overrides = document.overrides or {}
    payload: set[Platform] = set()
    for platform, raw in overrides.items():
        if platform not in rules.known:
            return None
        try:
            value = _plain(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if type(value) is not dict or too_deep(value):
            return None
        if has_payload(value):
            payload.add(platform)
    activity = None
    silent = document.silent or False
    if document.live_activity is not None:
        activity = live_activity.judge(document.live_activity, notification, silent=silent)
        if activity is None:
            return None
    elif notification is None and not document.data and not payload:
        return None
    if silent and notification is not None and any(getattr(notification, name) is not None for name in VISIBLE):
        return None
    send_at = None
    if document.send_at is not None:
        try:
            send_at = parse_send_at(document.send_at, now)
        except ValueError:
            return None
    found = receivers(document.to, rules)
    if found is None:
        return None
    targets, audience = (found, None) if isinstance(found, dict) else ({}, found)
    content = Content(
        notification=notification,
        live_activity=activity,
        data=document.data or None,
        priority=document.priority,
        push_type=document.push_type,
        silent=silent,
        ttl=ttl,
        collapse=document.collapse,
        dry_run=document.dry_run or False,
        overrides=overrides,
    )
    only = None if notification is not None or document.data or activity is not None else frozenset(payload)
    total = sum(map(len, targets.values()))
    tokens = document.to.tokens
    odd = () if tokens is None or total == len(tokens) else named_for_two(tokens, rules.routes)
    return Draft(content, document.lane or "normal", targets, total, send_at, audience, only, odd)


def receivers(to: To, rules: Rules) -> dict[Platform, tuple[Target, ...]] | Audience | None:
    """The targets, or whom to look up; None where one has a fault."""
    ways = (to.tokens, to.devices, to.users, to.topic, to.where, to.all)
    if ways.count(None) != len(ways) - 1:
        return None
    if to.tokens is not None:
        return None if len(to.tokens) > rules.max_targets else targets_of(to.tokens, rules.checks, rules.routes)
    if to.topic is not None:
        return ByTopic(to.topic) if name_fault(to.topic) is None else None
    if to.where is not None:
        try:
            compile_where(to.where, now=0, platforms=sorted(rules.checks))
        except WhereError:
            return None
        return ByWhere(to.where)
    if to.all is not None:
        return ToAll() if to.all else None
    names = to.devices or to.users or ()
    if len(names) > rules.max_targets or any(map(name_fault, names)):
        return None
    distinct = tuple(dict.fromkeys(names))
    return ByDevices(distinct) if to.devices else ByUsers(distinct)
