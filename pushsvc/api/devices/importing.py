"""Whole devices, with what the registry knows of them: validated by the rules of `PUT /v1/devices/{device_id}`, and
written many at a time. The one way in for `pushsvc devices import` and its call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Struct
from msgspec.structs import replace

from ...bodies import judged, read_document
from ...decoding import Rule, unprintable
from ...errors import Fault, PushsvcError, Unreadable
from ...model.address import Addresses
from ...model.devices import Device
from ...ports.registry import MOST_TOPICS, Registry, UserFull
from ...problems import ProblemFault
from ..http.instants import Instant, parse_instant
from ..rules import Rules, extended
from .document import USER_FULL, DeviceDocument, Name, device_of

MOST: Final = 500
"""Devices that are written in one step."""
AHEAD: Final = 60_000
"""The tolerated difference of two clocks in milliseconds.

A device that was registered in the future could never be pruned.
"""
_INSTANTS: Final = ("registered_at", "last_seen_at", "struck_at", "pruned_at")
_MOST_STRIKES: Final = 1_000_000
_LONGEST_REASON: Final = 100

Taken: TypeAlias = bool | tuple[Fault, ...]
"""What became of a device: whether it is new, or what is wrong with it."""


class ImportDocument(Struct, forbid_unknown_fields=True):
    """Devices to write as they are, each as in a line of `pushsvc devices export`."""

    devices: Annotated[
        list[Any],
        # A generator of clients asks what an array is of, even where it may be anything.
        Meta(min_length=1, max_length=MOST, description="Each is judged by itself.", extra_json_schema={"items": {}}),
    ]


class RefusedLine(Struct, frozen=True):
    """A device that was not written."""

    index: Annotated[int, Meta(description="Its place in `devices`, from 0.")]
    errors: list[ProblemFault]


class Imported(Struct, frozen=True):
    """What became of the devices of a call."""

    imported: Annotated[int, Meta(description="Those that were written.")]
    new: Annotated[list[int], Meta(description="The places of those among them that were not known before.")]
    refused: list[RefusedLine]


def read_import(body: bytes) -> list[Any]:
    """Return the devices of a body, not yet judged. Raises `MalformedBody` or `InvalidRequest`."""
    return read_document(body, ImportDocument).devices


def imported(taken: Sequence[Taken]) -> Imported:
    """Return what became of devices as the API shows it."""
    refused = [
        RefusedLine(at, [ProblemFault(fault.path, fault.message) for fault in each])
        for at, each in enumerate(taken)
        if not isinstance(each, bool)
    ]
    return Imported(len(taken) - len(refused), [at for at, each in enumerate(taken) if each is True], refused)


async def import_devices(registry: Registry, rules: Rules, values: Sequence[Any], now: int) -> list[Taken]:
    """Write up to `MOST` devices in one step, each replacing the one with its id or token. `now`, in Unix ms, is when
    those without times of their own were registered."""
    found: list[Taken | Device] = []
    for value in values:
        try:
            found.append(read_device(value, rules, now))
        except BadLine as bad:
            found.append(bad.faults)
    while good := [(at, each) for at, each in enumerate(found) if isinstance(each, Device)]:
        try:
            written = await registry.put_many(rules.app, [device for _, device in good])
        except UserFull as full:
            fault, refused = USER_FULL, full.device_ids
        except Unreadable as hidden:
            fault, refused = Fault("id", str(hidden)), tuple(hidden.device_ids)
        else:
            for (at, _), new in zip(good, written, strict=True):
                found[at] = new
            break
        for at, device in good:
            if device.id in refused:
                found[at] = (fault,)
    return [each for each in found if not isinstance(each, Device)]


class BadLine(PushsvcError):
    """A line is no valid device. Lists everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.path}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class DeviceLine(DeviceDocument, forbid_unknown_fields=True, kw_only=True):
    """A line: the document that `PUT` takes, and what the registry knows besides."""

    id: Name
    registered_at: Instant | None = None
    last_seen_at: Instant | None = None
    topics: Annotated[list[Name], Meta(max_length=MOST_TOPICS)] | None = None
    strikes: Annotated[int, Meta(ge=0, le=_MOST_STRIKES)] | None = None
    struck_at: Instant | None = None
    state: Literal["active", "pruned"] | None = None
    pruned_at: Instant | None = None
    pruned_for: Annotated[str, Meta(max_length=_LONGEST_REASON), Rule(fault=unprintable)] | None = None


@cache
def line_type(addresses: Addresses) -> type[DeviceLine]:
    """Return the struct of a line with the fields of all platforms' addresses."""
    return extended(DeviceLine, *addresses.devices.declared(None))


def read_device(value: Any, rules: Rules, now: int) -> Device:
    """Return the device of a line.

    A device without times of its own is registered at `now` (Unix ms). Raises `BadLine`.
    """
    if isinstance(value, dict):
        # Exports of other tools write null for what they do not know.
        value = {name: item for name, item in value.items() if item is not None}
    kind = line_type(rules.addresses)
    line, faults, _ = judged(value, kind, {kind: partial(_line_faults, rules=rules, now=now)})
    if faults:
        raise BadLine(faults)
    times = {name: parse_instant(text) for name in _INSTANTS if (text := getattr(line, name)) is not None}
    registered_at = times.get("registered_at", now)
    return replace(
        device_of(line, line.id, rules.addresses, now),
        registered_at=registered_at,
        last_seen_at=times.get("last_seen_at", registered_at),
        topics=tuple(dict.fromkeys(line.topics or ())),
        strikes=line.strikes or 0,
        struck_at=times.get("struck_at", 0),
        state=line.state or "active",
        pruned_at=times.get("pruned_at", 0),
        pruned_for=line.pruned_for or "",
    )


def _line_faults(line: DeviceLine, *, rules: Rules, now: int) -> Iterator[tuple[str, str]]:
    yield from rules.target_faults(line, rules.addresses.devices)
    for name in _INSTANTS:
        text = getattr(line, name)
        if isinstance(text, str):
            at = parse_instant(text)
            if at > now + AHEAD:
                yield name, "lies in the future: the clock that wrote it, or that of this machine, is wrong"
            elif at < 0:
                yield name, "must not lie before 1970"
    for name in ("pruned_at", "pruned_for"):
        if line.state == "pruned" and getattr(line, name) is None:
            yield name, "is missing: a pruned device says when and why"
        if line.state in (None, "active") and getattr(line, name) is not None:
            yield name, 'belongs to a device whose `state` is "pruned"'
