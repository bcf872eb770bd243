"""The device document: what `PUT /v1/devices/{device_id}` takes, with every fault at once, and what is answered. Pure.

Decided here, where the contract leaves it open:

- Ids of devices and users and names of topics are 1 to 128 printable characters without spaces; `.` and `..` are none,
  since a client makes another path of them. A device is not called `restore`, which is a call.
- `null` is the same as leaving a field out, a tag too. What is left out of a refresh is gone: the document replaces.
- The service does not judge what it only keeps: a locale, a timezone and an app version are short texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ...errors import Fault, InvalidRequest
from ...model.devices import MAX_NAME, Device, TagValue, name_fault
from ...model.documents import Time
from ...model.identity import canonical
from ...model.instants import instant
from ...ports.registry import MOST_OF_USER
from ..http.problems import ProblemFault
from ..http.refusal import parse, summary
from ..http.wording import expected, join, secret_kind
from ..pushes.faults import Check, Enough, Found, Rules, check_fields, check_name, platform_check

MAX_TEXT: Final = 64
"""Characters of a locale, a timezone, an app version and a tag's name."""
MAX_TAGS: Final = 50
MAX_VALUE: Final = 256
"""Characters of a tag's text, and texts in a tag's list."""
MAX_TAGS_SIZE: Final = 4096
"""Bytes of all tags as JSON."""
MAX_NUMBER: Final = 2**53
"""What every JSON reader keeps to the digit (RFC 8259, section 6)."""
ENVIRONMENTS: Final = ("production", "sandbox")

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Short = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
TagText = Annotated[str, Meta(max_length=MAX_VALUE)]
Tag = TagText | bool | int | float | Annotated[list[TagText], Meta(max_length=MAX_VALUE)] | None


class DeviceDocument(Struct, forbid_unknown_fields=True):
    """A device as its app registers it. Only `platform` and its `token`, or for FCM `fid`, are needed."""

    platform: Annotated[str, Meta(description="A provider that is configured for the app.", examples=["apns", "fcm"])]
    token: Annotated[str | None, Meta(description="The device token (APNs) or registration token (FCM).")] = None
    fid: Annotated[str | None, Meta(description="A Firebase installation id, in place of `token`.")] = None
    user: Annotated[Name | None, Meta(description=f"Whose it is. A user has up to {MOST_OF_USER:,} devices.")] = None
    tags: Annotated[
        Annotated[dict[str, Tag], Meta(max_length=MAX_TAGS)] | None,
        Meta(
            description=f"Strings, numbers, booleans or lists of strings by name; {MAX_TAGS_SIZE:,} bytes together.",
            examples=[{"plan": "pro", "beta": True}],
        ),
    ] = None
    locale: Annotated[Short | None, Meta(examples=["de-AT"])] = None
    timezone: Annotated[Short | None, Meta(examples=["Europe/Vienna"])] = None
    app_version: Annotated[Short | None, Meta(examples=["3.2.0"])] = None
    environment: Annotated[
        Literal["production", "sandbox"] | None, Meta(description="Of APNs. Default: `production`.")
    ] = None


class RegisteredDevice(Struct, frozen=True):
    """A device as the service keeps it."""

    id: str
    platform: str
    user: str | None
    tags: dict[str, TagValue]
    locale: str | None
    timezone: str | None
    app_version: str | None
    environment: Literal["production", "sandbox"]
    registered_at: Annotated[Time, Meta(description="When this token was registered last.")]
    last_seen_at: Time
    topics: tuple[str, ...]
    state: Annotated[
        Literal["active", "pruned"],
        Meta(description="A pruned device is sent nothing; it comes back when it registers again, or is restored."),
    ]
    token: Annotated[
        str | UnsetType, Meta(description="As it was registered, an APNs token in lower case; or `fid`.")
    ] = UNSET
    fid: str | UnsetType = UNSET
    pruned_at: Time | UnsetType = UNSET
    pruned_for: Annotated[
        str | UnsetType, Meta(description="The provider's word for which it was pruned, or ours in lower case.")
    ] = UNSET


class DeviceList(Struct, frozen=True):
    """Devices of one user, pruned ones too."""

    items: list[RegisteredDevice]


class DevicePage(Struct, frozen=True):
    """Devices, and the cursor of the next page: null on the last. A page may be short, or empty, and not the last."""

    items: list[RegisteredDevice]
    cursor: str | None


class Topic(Struct, frozen=True):
    """A topic, and how many devices a push to it goes to."""

    topic: str
    devices: int


class TopicPage(Struct, frozen=True):
    """Topics in the order of their names, and the cursor of the next page: null on the last."""

    items: list[Topic]
    cursor: str | None


class ErasedParts(Struct, frozen=True):
    """What was erased beside the devices."""

    deliveries: Annotated[int, Meta(description="Taken out of the queue; they end as `cancelled`.")]
    dead_letters: int
    receipts: Annotated[int, Meta(description="Of tokens that a provider had called dead or suspect.")]
    events: Annotated[int, Meta(description="Of `GET /v1/feedback`.")]
    statuses: Annotated[int, Meta(description="Rows of pushes, which stay without saying whose they are.")]
    suppressions: int
    quarantined: Annotated[int, Meta(description="Entries that nobody could read, and that held a token or a name.")]
    pushes: Annotated[int, Meta(description="Pushes of which no delivery was made yet and that named nobody else.")]


class Erased(Struct, frozen=True):
    """A user is erased, or being erased."""

    erased: Annotated[int, Meta(description="Devices that were removed.")]
    done: Annotated[
        bool, Meta(description="Nothing is left. Else it goes on by itself; the same call tells how far it has come.")
    ]
    removed: ErasedParts
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(description="What may still be sent for some seconds, and what to do about it."),
    ] = UNSET


def shown(device: Device) -> RegisteredDevice:
    """As the API shows it."""
    pruned = device.state == "pruned"
    return RegisteredDevice(
        id=device.id,
        platform=device.platform,
        token=UNSET if device.kind == "fid" else device.token,
        fid=device.token if device.kind == "fid" else UNSET,
        user=device.user,
        tags=device.tags,
        locale=device.locale,
        timezone=device.timezone,
        app_version=device.app_version,
        environment=device.environment,
        registered_at=instant(device.registered_at),
        last_seen_at=instant(device.last_seen_at),
        topics=device.topics,
        state=device.state,
        pruned_at=instant(device.pruned_at) if pruned else UNSET,
        pruned_for=device.pruned_for if pruned else UNSET,
    )


def read_device(body: bytes, device_id: str, rules: Rules, now: int) -> Device:
    """The device that `body` registers at `now` (Unix ms).

    Raises `MalformedBody` (400), or `InvalidRequest` (422) naming every fault.
    """
    value = parse(body)
    found = device_faults(value, rules)
    if (fault := name_fault(device_id)) is not None:
        found.items.insert(0, Fault("device_id", fault))
    if found.items:
        raise InvalidRequest(summary(len(found.items), found.more), faults=found.items)
    return device_of(value, device_id, now)


def device_faults(value: Any, rules: Rules) -> Found:
    """What is wrong with a document, in its order."""
    found = Found()
    with suppress(Enough):
        if not isinstance(value, dict):
            found.add("", expected("a device document, which is an object", value))
        else:
            check = platform_check(value, "", found, rules)
            _addressed(value, found)
            own = {name: partial(_token, check=check) for name in ("token", "fid")}
            check_fields(value, "", found, {**_FIELDS, **own})
    return found


def device_of(value: Mapping[str, Any], device_id: str, now: int) -> Device:
    """The device of a document without fault."""
    given = {name: item for name, item in value.items() if item is not None}
    kind = "fid" if "fid" in given else "token"
    return Device(
        id=device_id,
        platform=given["platform"],
        token=canonical(given["platform"], given[kind], kind),
        kind=kind,
        user=given.get("user"),
        tags={
            name: tuple(item) if isinstance(item, list) else item
            for name, item in given.get("tags", {}).items()
            if item is not None
        },
        locale=given.get("locale"),
        timezone=given.get("timezone"),
        app_version=given.get("app_version"),
        environment=given.get("environment", "production"),
        registered_at=now,
        last_seen_at=now,
    )


# --- the fields -------------------------------------------------------------------------------------


def _addressed(value: Mapping[str, Any], found: Found) -> None:
    given = [name for name in ("token", "fid") if value.get(name) is not None]
    if not given:
        found.add("token", "is missing")
    if len(given) == 2:
        found.add("", "holds either `token` or `fid`, not both")


def _token(value: Any, path: str, found: Found, *, check: Any) -> None:
    if not isinstance(value, str):
        found.add(path, f"expected a string, found {secret_kind(value)}")
    elif check is not None and (fault := check(value, path)) is not None:
        found.add(path, fault)


def _known(value: Any, path: str, found: Found) -> None:
    """The platform, which was looked at before its token."""


def _short(value: Any, path: str, found: Found) -> None:
    if not isinstance(value, str):
        found.add(path, expected("a string", value))
    elif not (1 <= len(value) <= MAX_TEXT and value.isprintable()):
        found.add(path, f"must be 1 to {MAX_TEXT} printable characters")


def _environment(value: Any, path: str, found: Found) -> None:
    if value not in ENVIRONMENTS:
        found.add(path, expected("one of " + ", ".join(f'"{name}"' for name in ENVIRONMENTS), value))


def _tags(value: Any, path: str, found: Found) -> None:
    if not isinstance(value, dict):
        found.add(path, expected("an object of tags", value))
        return
    if len(value) > MAX_TAGS:
        found.add(path, f"holds {len(value):,} tags, at most {MAX_TAGS} are taken")
    for name, item in value.items():
        place = join(path, name)
        if not (1 <= len(name) <= MAX_TEXT and name.isprintable()):
            found.add(place, f"a tag's name must be 1 to {MAX_TEXT} printable characters")
        if item is not None and (fault := _tag_fault(item)) is not None:
            found.add(place, fault)
    if (size := len(msgspec.json.encode(value))) > MAX_TAGS_SIZE:
        found.add(path, f"makes {size:,} bytes of JSON, at most {MAX_TAGS_SIZE:,} are taken")


def _tag_fault(value: Any) -> str | None:
    match value:
        case bool():
            return None
        case int() | float():
            return None if abs(value) <= MAX_NUMBER else f"must be from -{MAX_NUMBER:,} to {MAX_NUMBER:,}"
        case str():
            return (
                None if len(value) <= MAX_VALUE else f"is {len(value):,} characters long, at most {MAX_VALUE} are taken"
            )
        case list():
            if not all(isinstance(item, str) for item in value):
                return "a list of anything but strings is not taken"
            if len(value) > MAX_VALUE or any(len(item) > MAX_VALUE for item in value):
                return f"at most {MAX_VALUE} strings of at most {MAX_VALUE} characters each are taken"
            return None
        case _:
            return expected("a string, a number, true, false or a list of strings", value)


_FIELDS: Final[dict[str, Check]] = {
    "platform": _known,
    "user": check_name,
    "tags": _tags,
    "locale": _short,
    "timezone": _short,
    "app_version": _short,
    "environment": _environment,
}
