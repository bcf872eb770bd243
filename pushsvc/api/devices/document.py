"""The device document: what `PUT /v1/devices/{device_id}` takes, with every fault at once, and what is answered. Pure.

Decided here, where the contract leaves it open:

- Ids of devices and users and names of topics are 1 to 128 printable characters without spaces; `.` and `..` are none,
  since a client makes another path of them. A device is not called `restore`, which is a call.
- `null` is the same as leaving a field out, a tag too. What is left out of a refresh is gone: the document replaces.
- The service does not judge what it only keeps: a locale, a timezone and an app version are short texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ...bodies import judged, parse
from ...decoding import Checks, Rule, unprintable
from ...errors import Fault, InvalidRequest, summary
from ...model.address import Addresses
from ...model.devices import MAX_NAME, Device, TagValue, as_fields, name_fault
from ...model.documents import Time
from ...ports.registry import MOST_OF_USER
from ...problems import ProblemFault
from ..rules import PlatformName, Rules, extended

MAX_TEXT: Final = 64
"""Characters of a locale, a timezone, an app version and a tag's name."""
MAX_TAGS: Final = 50
MAX_VALUE: Final = 256
"""Characters of a tag's text, and texts in a tag's list."""
MAX_TAGS_SIZE: Final = 4096
"""Bytes of all tags as JSON."""
MAX_NUMBER: Final = 2**53
"""The largest number that every JSON reader represents exactly (RFC 8259, section 6)."""
USER_FULL: Final = Fault("user", f"has {MOST_OF_USER:,} devices already; omit `user` unless it is one person")


def _tag_name_fault(name: str) -> str | None:
    return None if name.isprintable() else "a tag's name must be printable characters"


def _tags_fault(tags: Mapping[str, Any]) -> str | None:
    size = len(msgspec.json.encode(tags))
    return f"makes {size:,} bytes of JSON, at most {MAX_TAGS_SIZE:,} are taken" if size > MAX_TAGS_SIZE else None


Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME), Rule(fault=name_fault)]
Short = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT), Rule(fault=unprintable)]
TagName = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT), Rule(fault=_tag_name_fault)]
TagText = Annotated[str, Meta(max_length=MAX_VALUE)]
TagNumber = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)] | Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Tag = (
    Annotated[
        TagText | bool | TagNumber | Annotated[list[TagText], Meta(max_length=MAX_VALUE)],
        Rule("a string, a number, true, false or a list of strings"),
    ]
    | None
)


STRIKES: Final = (
    "Suspect answers since it was registered; one that comes too soon after the last is not counted "
    "(`feedback.strike_span`)."
)


class DeviceDocument(Struct, forbid_unknown_fields=True):
    """A device as its app registers it. Only `platform` and the address that its platform gave it are needed."""

    platform: PlatformName
    user: Annotated[
        Name | None, Meta(description=f"The user of the device. A user has up to {MOST_OF_USER:,} devices.")
    ] = None
    tags: Annotated[
        Annotated[dict[TagName, Tag], Meta(max_length=MAX_TAGS), Rule(fault=_tags_fault)] | None,
        Meta(
            description=f"Strings, numbers, booleans or lists of strings by name; {MAX_TAGS_SIZE:,} bytes together.",
            examples=[{"plan": "pro", "beta": True}],
        ),
    ] = None
    locale: Annotated[Short | None, Meta(examples=["de-AT"])] = None
    timezone: Annotated[Short | None, Meta(examples=["Europe/Vienna"])] = None
    app_version: Annotated[Short | None, Meta(examples=["3.2.0"])] = None
    environment: Annotated[
        Literal["production", "sandbox"] | None,
        Meta(description="The environment of APNs that the token belongs to. Default: `production`."),
    ] = None


class RegisteredDevice(Struct, frozen=True):
    """A device as the service keeps it, its address in the form in which it is compared."""

    id: str
    platform: str
    user: str | None
    tags: dict[str, TagValue]
    locale: str | None
    timezone: str | None
    app_version: str | None
    environment: Literal["production", "sandbox"]
    registered_at: Annotated[Time, Meta(description="When this token was last registered.")]
    last_seen_at: Time
    topics: tuple[str, ...]
    state: Annotated[
        Literal["active", "pruned"],
        Meta(
            description="Nothing is sent to a pruned device, except over the live channel while its app uses it. It "
            "becomes active again when it registers or is restored."
        ),
    ]
    pruned_at: Time | UnsetType = UNSET
    pruned_for: Annotated[
        str | UnsetType,
        Meta(description="The reason for the prune: the provider's, or one of pushsvc in lower case."),
    ] = UNSET
    strikes: Annotated[int | UnsetType, Meta(description=STRIKES)] = UNSET
    struck_at: Annotated[Time | UnsetType, Meta(description="When the last of them came.")] = UNSET
    online: Annotated[
        bool | UnsetType,
        Meta(
            description="Whether it is connected to the live channel. Like the two that follow it is only in the "
            "answer to `GET /v1/devices/{device_id}`, of an app that has the live channel."
        ),
    ] = UNSET
    connected_at: Annotated[Time | UnsetType, Meta(description="Only while it is online.")] = UNSET
    unacked: Annotated[int | UnsetType, Meta(description="Pushes in its stream that it has not acknowledged.")] = UNSET


class DeviceTypes(NamedTuple):
    """The structs of devices, with the fields of all platforms' addresses."""

    document: type[DeviceDocument]
    registered: type[RegisteredDevice]


@cache
def device_types(addresses: Addresses) -> DeviceTypes:
    return DeviceTypes(
        extended(DeviceDocument, *addresses.devices.declared(None)),
        extended(RegisteredDevice, *addresses.devices.declared(UNSET)),
    )


class DeviceList(Struct, frozen=True):
    """The devices of a user, including pruned ones."""

    items: list[RegisteredDevice]


class DevicePage(Struct, frozen=True):
    """Devices, and the cursor of the next page, null on the last. A page may be short or empty without being the
    last."""

    items: list[RegisteredDevice]
    cursor: str | None


class Topic(Struct, frozen=True):
    """A topic, and the number of devices that a push to it reaches."""

    topic: str
    devices: int


class TopicPage(Struct, frozen=True):
    """Topics in the order of their names, and the cursor of the next page, null on the last."""

    items: list[Topic]
    cursor: str | None


class ErasedParts(Struct, frozen=True):
    """The counts of what was erased, apart from the devices."""

    deliveries: Annotated[
        int, Meta(description="Deliveries that were taken out of the queue and ended as `cancelled`.")
    ]
    dead_letters: int
    receipts: Annotated[int, Meta(description="Receipts of tokens that a provider had called dead or suspect.")]
    events: Annotated[int, Meta(description="Events of `GET /v1/feedback`.")]
    statuses: Annotated[int, Meta(description="Rows of pushes, which remain without the id of the device.")]
    suppressions: int
    quarantined: Annotated[
        int, Meta(description="Entries of a queue that could not be decoded and contain a token or a name of the user.")
    ]
    pushes: Annotated[int, Meta(description="Pushes that had no delivery yet and named no other user.")]


class Erased(Struct, frozen=True):
    """The result of erasing a user."""

    erased: Annotated[int, Meta(description="Devices that were removed.")]
    done: Annotated[
        bool,
        Meta(
            description="Whether nothing is left. If not, it continues automatically; repeat the call for its progress."
        ),
    ]
    removed: ErasedParts
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(description="What may still be sent for some seconds, and what to do about it."),
    ] = UNSET


def shown(device: Device, addresses: Addresses, **live: Any) -> RegisteredDevice:
    """Return a device as the API shows it, with the fields of its state in the live channel."""
    fields = as_fields(device)
    for name in ("kind", "struck_for", "judged_by"):
        del fields[name]
    for name in ("pruned_at", "strikes", "struck_at"):
        fields[name] = fields[name] or UNSET
    if device.state != "pruned":
        fields["pruned_for"] = UNSET
    address = addresses.devices.filled(device.platform, device.kind, device.token)
    return device_types(addresses).registered(**fields, **address, **live)


def read_device(body: bytes, device_id: str, rules: Rules, now: int) -> Device:
    """Return the device that `body` registers at `now` (Unix ms).

    Raises `MalformedBody` (400), or `InvalidRequest` (422) naming every fault.
    """
    document, faults, more = judged(parse(body), device_types(rules.addresses).document, device_checks(rules))
    if (fault := name_fault(device_id)) is not None:
        faults.insert(0, Fault("device_id", fault))
    if faults:
        raise InvalidRequest(summary(len(faults), more), faults=faults)
    return device_of(document, device_id, rules.addresses, now)


def device_checks(rules: Rules) -> Checks:
    """Return the checks of a device document that types cannot express: which platforms exist, what an address looks
    like."""
    faults = partial(rules.target_faults, fields=rules.addresses.devices)
    return {device_types(rules.addresses).document: faults}


def device_of(document: DeviceDocument, device_id: str, addresses: Addresses, now: int) -> Device:
    """Return the device of a valid document."""
    kind, token = addresses.devices.address_of(document, device_id)
    return Device(
        id=device_id,
        platform=document.platform,
        token=token,
        kind=kind,
        user=document.user,
        tags={
            name: tuple(item) if isinstance(item, list) else item
            for name, item in (document.tags or {}).items()
            if item is not None
        },
        locale=document.locale,
        timezone=document.timezone,
        app_version=document.app_version,
        environment=document.environment or "production",
        registered_at=now,
        last_seen_at=now,
    )
