"""A device as a line of a file: NDJSON or CSV, as `api.devices.importing` validates it. Pure.

A line is the document that the API returns, plus its strikes. Times have milliseconds and fields a fixed order, so
that the same registry always makes the same file. In CSV (RFC 4180, with a header, UTF-8) `tags` is a JSON object,
because tags have types, and so is an address of several parts; `topics` are names separated by spaces; an empty cell
is a field left out. A record is one line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ...api.devices.importing import BadLine
from ...errors import Fault, PushsvcError
from ...model.address import Addresses
from ...model.devices import Device, as_fields

Format: TypeAlias = Literal["ndjson", "csv"]

FIELDS: Final = (
    *("user", "tags", "locale", "timezone", "app_version", "environment"),
    *("registered_at", "last_seen_at", "topics", "strikes", "struck_at"),
)
"""Those behind `id`, `platform` and the addresses."""
TOMBSTONE: Final = ("state", "pruned_at", "pruned_for")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class BadHeader(PushsvcError):
    """The first line of a CSV file names an unknown column or lacks a required one."""


# --- writing ----------------------------------------------------------------------------------------


def document_of(device: Device, addresses: Addresses) -> dict[str, Any]:
    """Return the document of a device, with its fields in order. Empty fields are left out."""
    fields = {**as_fields(device), **addresses.devices.filled(device.platform, device.kind, device.token)}
    names = columns(addresses, tombstones=device.state == "pruned")
    return {name: fields[name] for name in names if fields.get(name) not in (None, {}, (), 0)}


def ndjson_of(devices: Sequence[Device], addresses: Addresses) -> bytes:
    """Return devices as lines of JSON."""
    return b"".join(_encode(document_of(device, addresses)) + b"\n" for device in devices)


def header(addresses: Addresses, *, tombstones: bool) -> bytes:
    """Return the first line of a CSV file."""
    return (",".join(columns(addresses, tombstones=tombstones)) + "\n").encode()


def columns(addresses: Addresses, *, tombstones: bool) -> tuple[str, ...]:
    return ("id", "platform", *addresses.devices.names, *FIELDS, *(TOMBSTONE if tombstones else ()))


def csv_of(devices: Sequence[Device], addresses: Addresses, *, tombstones: bool) -> bytes:
    """Return devices as lines of CSV, without the header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = columns(addresses, tombstones=tombstones)
    objects = _objects(addresses)
    for device in devices:
        document = document_of(device, addresses)
        for name in objects & document.keys():
            document[name] = _encode(document[name]).decode()
        document["topics"] = " ".join(document.get("topics", ()))
        writer.writerow([document.get(name, "") for name in names])
    return text.getvalue().encode()


# --- reading ----------------------------------------------------------------------------------------


def read_ndjson(line: bytes) -> Any:
    """Return the JSON value of a line. Raises `BadLine`."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadLine([Fault("$", "is not JSON")]) from None


def _objects(addresses: Addresses) -> set[str]:
    """Return the columns that hold JSON objects."""
    return {"tags", *addresses.devices.objects}


def check_header(names: Sequence[str], addresses: Addresses) -> None:
    """Check the column names of a CSV file. Raises `BadHeader`."""
    known = columns(addresses, tombstones=True)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BadHeader(f"the header names {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadHeader(f"the header names {', '.join(twice)} twice")
    missing = [name for name in ("id", "platform") if name not in names]
    if not (missing or addresses.devices.optional or any(name in names for name in addresses.devices.names)):
        missing.append(known[2])
    if missing:
        raise BadHeader(f"the header lacks {', '.join(missing)}; it begins as {','.join(known[:3])}")


def read_row(names: Sequence[str], cells: Sequence[str], addresses: Addresses) -> dict[str, Any]:
    """Return a CSV row as the object that the same line of NDJSON would contain. Raises `BadLine`.

    A cell that is not what its column is for stays a text, which is refused with all other faults of the line.
    """
    if len(cells) != len(names):
        raise BadLine([Fault("$", f"has {len(cells):,} cells, the header {len(names):,}")])
    found: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    for name in _objects(addresses) & found.keys():
        with suppress(msgspec.MsgspecError, RecursionError):
            found[name] = _decode(found[name])
    if "topics" in found:
        found["topics"] = found["topics"].split()
    if (strikes := found.get("strikes", "")).isascii() and strikes.isdigit():
        found["strikes"] = int(strikes[:18])
    return found
