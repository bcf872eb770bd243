"""The push document: decoded fast when it is valid, examined in detail when it is not.

`read` decodes the body once into typed structs (msgspec, strict) and checks what types cannot express. Only when that
fails does `refuse` name every fault at once, by the decoder and the `checks`. The two agree: `read` accepts what these
find no fault in, which a property test checks.

Decided here, where RFC 8259 leaves it open:

- `null` is the same as leaving a field out, wherever a field may be left out.
- A whole number may be written as `3.0` or `3e0`, as JSON Schema has it (2020-12 validation, section 6.1.1): Lua, PHP
  and others have no other form for a double.
- NaN, Infinity, numbers beyond a double, lone surrogates, and a byte order mark are not JSON: 400.
- Of a name given twice in one object the last counts, as in most parsers; where its other value is wrong, the
  repeat is named as the fault.
- The content of `overrides` is passed on byte for byte; it must be an object, at most `depth.MAX_DEPTH` levels deep.
- The same token twice in one push is one delivery (`receivers.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn

import msgspec
from msgspec import Meta, Raw, Struct

from ...bodies import examined, parse, repeats, utf8
from ...decoding import WRONG, Checks, Rule, fraction
from ...errors import ContentTooLarge, Fault, InvalidRequest, summary
from ...model.address import Addresses
from ...model.devices import Audience
from ...model.push import (
    MAX_ACK_WITHIN,
    MAX_COLLAPSE,
    MAX_TTL,
    MIN_ACK_WITHIN,
    UNREAD,
    Content,
    Lane,
    Notification,
    Platform,
    Target,
    Via,
)
from ...wording import join, names, show
from ..http.depth import depth_fault
from ..http.instants import DAYS_AHEAD, Instant, instant_fault, parse_send_at
from ..rules import Rules, extended
from . import live_activity
from .live_activity import LiveActivity
from .receivers import ReceiverTypes, To, named_for_two, receiver_checks, receiver_types, receivers

VISIBLE: Final = ("title", "subtitle", "body", "image", "sound", "badge")
"""The fields of a notification that the user notices."""
SHOWN_ALONE: Final = frozenset(("title", "subtitle", "body"))
"""Those of them that are a text."""

# --- the document, as the OpenAPI description shows it ---------------------------------------------

_Datum = Annotated[str, Rule("a string (the providers carry nothing else)")]


class PushDocument(Struct, forbid_unknown_fields=True, gc=False):
    """One push. Besides `to` it needs `notification`, `live_activity`, `data`, or an override with a payload."""

    to: To
    notification: Notification | None = None
    live_activity: LiveActivity | None = None
    data: Annotated[
        dict[str, _Datum] | None, Meta(description="Values for the app; each is a string.", examples=[{"order": "7"}])
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
        bool | None, Meta(description="Wakes the app and shows nothing; excludes a visible `notification`.")
    ] = None
    ttl: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_TTL)] | Annotated[float, Meta(ge=0, le=MAX_TTL)] | None,
        Rule(f"a whole number of seconds from 0 to {MAX_TTL:,}", fault=fraction),
        Meta(description="Seconds after which it is not sent any more; 0: now or never. Default: 2,419,200 (28 days)."),
    ] = None
    collapse: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_COLLAPSE)] | None,
        Meta(description="A later push with the same value replaces this one on the device. For APNs printable ASCII."),
    ] = None
    send_at: Annotated[
        Instant | None,
        Meta(
            description=f"When to send it, at most {DAYS_AHEAD} days ahead; its `ttl` begins then. "
            "Default, and for an instant that has passed: at once."
        ),
    ] = None
    via: Annotated[
        Via | None,
        Meta(
            description="`live`: only the live channel carries it, to registered devices. `provider`: only APNs and "
            "FCM. Default: `auto`, by the rules of the app."
        ),
    ] = None
    ack_within: Annotated[
        Annotated[float, Meta(ge=MIN_ACK_WITHIN, le=MAX_ACK_WITHIN)] | None,
        Rule(f"a number of seconds from {MIN_ACK_WITHIN} to {MAX_ACK_WITHIN:,}"),
        Meta(
            description="Seconds in which a device that is online acknowledges it, before the next channel carries it. "
            "Default: `live.ack_within` of the app."
        ),
    ] = None
    dry_run: Annotated[bool | None, Meta(description="The provider checks the push and does not deliver it.")] = None
    overrides: Annotated[
        dict[str, Raw] | None,
        Meta(description="Per platform the provider's own JSON, merged (RFC 7396) over what pushsvc renders."),
    ] = None


class Draft(Struct, frozen=True, gc=False):
    """A valid push document as values of the model."""

    content: Content
    lane: Lane
    targets: dict[Platform, tuple[Target, ...]]
    """The targets by route."""
    total: int
    send_at: int | None = None
    """When to send it, in Unix ms; None: at once."""
    audience: Audience | None = None
    """The receivers to look up; there are then no targets."""
    only: frozenset[Platform] | None = None
    """The platforms that it has content for, if these are not all: it then has nothing but their overrides."""
    via: Via = "auto"
    warnings: tuple[Fault, ...] = ()
    """Warnings about its receivers."""


# --- reading ----------------------------------------------------------------------------------------


class PushTypes(NamedTuple):
    """The structs of the document, with the fields of all platforms' addresses."""

    document: type[PushDocument]
    receivers: ReceiverTypes
    decode: Callable[[bytes], PushDocument]


@cache
def push_types(addresses: Addresses, most: int) -> PushTypes:
    """Return the structs for these addresses. One call has at most `most` tokens, devices or users."""
    receivers = receiver_types(addresses, most)
    to: Any = receivers.to
    document = extended(PushDocument, ("to", Annotated[to, Rule('an object such as {"tokens": [..]}')]))
    return PushTypes(document, receivers, msgspec.json.Decoder(document).decode)


_plain = msgspec.json.Decoder().decode
_NOTHING: Final = Notification()
MAX_CONTENT: Final = 64 * 1024
"""The maximum size of one part of a document in bytes: more than ten times what a provider accepts, with room for
blanks."""


def read(body: bytes, rules: Rules, now: int) -> Draft:
    """Return the push that `body` requests at `now`, in Unix ms. Raises `MalformedBody` (400), or `InvalidRequest`
    (422) naming every fault."""
    types = push_types(rules.addresses, rules.max_targets)
    try:
        document = types.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        refuse(body, rules, now)
    if len(body) > MAX_CONTENT:
        _check_size(document)
    draft = judge(document, rules, types.receivers, now)
    if draft is None:
        refuse(body, rules, now)
    # msgspec looks into the strings that it decodes; what it passes on raw it does not read as UTF-8.
    if document.overrides or document.live_activity:
        utf8(body)
    return draft


def refuse(body: bytes, rules: Rules, now: int) -> NoReturn:
    """Raise the faults of a body that `read` could not accept."""
    _, faults, more = examined(parse(body), push_types(rules.addresses, rules.max_targets).document, checks(rules, now))
    # What the typed decoder saw and the walk did not can only be a value that a later one of the same name hid.
    listed = faults or repeats(body)
    if not listed:
        raise InvalidRequest("The document is not valid.")
    raise InvalidRequest(summary(len(listed), more), faults=listed)


def checks(rules: Rules, now: int) -> Checks:
    """Return the checks of the document that types cannot express."""
    types = push_types(rules.addresses, rules.max_targets)
    return {
        **receiver_checks(rules, types.receivers),
        Notification: lambda notification: (),
        LiveActivity: lambda activity: (),
        types.document: partial(_faults, rules=rules, now=now),
    }


def _faults(document: PushDocument, *, rules: Rules, now: int) -> Iterator[tuple[str, str]]:
    """Yield the faults that no single field has. A field that is `WRONG` has its fault already."""
    if isinstance(document.send_at, str):
        try:
            parse_send_at(document.send_at, now)
        except ValueError as error:
            if instant_fault(document.send_at) is None:
                yield "send_at", str(error)
    yield from via_faults(document, rules)
    overrides: Any = document.overrides or {}
    speaking = overrides is WRONG
    for platform, value in () if speaking else overrides.items():
        speaking = speaking or not isinstance(value, dict) or has_payload(value)
        if (fault := override_fault(platform, value, rules)) is not None:
            yield join("overrides", platform), fault
    yield from disagreements(document, speaking=speaking)


def via_faults(document: PushDocument, rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield why the app or the receivers cannot be reached the way that is asked for."""
    to: Any = document.to
    if document.via == "live":
        if not rules.live:
            yield "via", f"the app {rules.app} has no live channel: add [apps.{rules.app}.live] to the configuration"
        elif isinstance(to, To) and to.tokens is not None:
            ways = names(way for way in To.__struct_fields__ if way != "tokens")
            yield "via", f"only registered devices are reached by the live channel: name them in `to` by one of {ways}"
    elif document.via == "provider" and not rules.providers:
        yield "via", f"the app {rules.app} has no provider: add one as [apps.{rules.app}.apns] to the configuration"


def override_fault(platform: str, value: Any, rules: Rules) -> str | None:
    """Return what is wrong with one platform's override, or None."""
    if platform not in rules.addresses.platforms:
        return rules.unknown_platform
    if not isinstance(value, dict):
        return f"expected an object, found {show(value)}"
    return depth_fault(value)


def disagreements(document: PushDocument, *, speaking: bool) -> Iterator[tuple[str, str]]:
    """Yield the fields that contradict one another. `speaking`: an override has a payload."""
    notification, activity, silent = document.notification, document.live_activity, document.silent is True
    shown = [
        name
        for name in Notification.__struct_fields__
        if isinstance(notification, Notification) and getattr(notification, name) is not None
    ]
    if not (shown or document.data or speaking or activity is not None or notification is WRONG):
        yield "", "has no content: add `notification`, `live_activity`, `data` or an override with a payload"
    if isinstance(activity, LiveActivity):
        for name, fault in live_activity.disagreements(activity, shown, silent=silent):
            yield f"live_activity.{name}" if name else "live_activity", fault
    if isinstance(notification, Notification) and notification.badge == UNREAD and not set(shown) & SHOWN_ALONE:
        alone = names(name for name in VISIBLE if name in SHOWN_ALONE)
        yield "notification.badge", f"`{UNREAD}` is left out where the number is not known: add one of {alone}"
    if silent and (seen := [name for name in shown if name in VISIBLE]):
        yield "silent", f"a silent push shows nothing: leave out `silent`, or {names(seen)} of `notification`"


def has_payload(override: dict[str, Any]) -> bool:
    """Return whether a platform's override has content to send, rather than only headers."""
    return any(name != "headers" for name in override)


def _check_size(document: PushDocument) -> None:
    """Check the size of the parts of a large document before they are decoded: only its receivers may be large. Raises
    `ContentTooLarge` for a part far beyond any provider's limit."""
    raws = {f"overrides.{name}": len(raw) for name, raw in (document.overrides or {}).items()}
    if (activity := document.live_activity) is not None:
        for name in live_activity.OBJECTS:
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
        raise ContentTooLarge("The content is too large for every provider.", faults=faults)


def judge(document: PushDocument, rules: Rules, types: ReceiverTypes, now: int) -> Draft | None:
    """Return the draft, or None where the examination will find a fault."""
    notification = None if document.notification == _NOTHING else document.notification
    badge: float | str | None = None if notification is None else notification.badge
    if notification is not None and isinstance(badge, float):
        if not badge.is_integer():
            return None
        notification = msgspec.structs.replace(notification, badge=int(badge))
    ttl = document.ttl
    if isinstance(ttl, float):
        if not ttl.is_integer():
            return None
        ttl = int(ttl)
    overrides = document.overrides or {}
    payload: set[Platform] = set()
    for platform, raw in overrides.items():
        try:
            value = _plain(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if override_fault(platform, value, rules) is not None:
            return None
        if has_payload(value):
            payload.add(platform)
    activity = None if document.live_activity is None else live_activity.judge(document.live_activity)
    silent = document.silent or False
    plain = not silent and document.live_activity is None and badge != UNREAD
    if not (plain and (notification is not None or document.data or payload)) and any(
        disagreements(document, speaking=bool(payload))
    ):
        return None
    if document.live_activity is not None and activity is None:
        return None
    send_at = None
    if document.send_at is not None:
        try:
            send_at = parse_send_at(document.send_at, now)
        except ValueError:
            return None
    found = receivers(document.to, rules, types)
    if found is None or (document.via is not None and any(via_faults(document, rules))):
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
        ack_within=document.ack_within,
        overrides=overrides,
    )
    only = None if notification is not None or document.data or activity is not None else frozenset(payload)
    total = sum(map(len, targets.values()))
    tokens = document.to.tokens
    odd = () if tokens is None or total == len(tokens) else named_for_two(tokens, rules)
    lane, via = document.lane or "normal", document.via or "auto"
    return Draft(content, lane, targets, total, send_at, audience, only, via, odd)
