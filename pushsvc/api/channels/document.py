"""The documents of broadcast channels, and their validation. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

from msgspec import Meta, Struct

from ...errors import Fault, InvalidRequest
from ...ports.channels import Storage
from ..http.refusal import parse
from ..http.wording import expected, join

STORAGES: Final[tuple[Storage, ...]] = get_args(Storage)

_Storage = Annotated[
    Literal["none", "latest"],
    Meta(description="What APNs stores for offline phones: nothing, or the latest push for up to 8 hours."),
]


class ChannelDocument(Struct, forbid_unknown_fields=True):
    """A broadcast channel to create. `storage` cannot be changed later; `none` allows a higher rate of pushes."""

    storage: _Storage


class Channel(Struct, frozen=True):
    """A broadcast channel."""

    id: Annotated[str, Meta(description="The id that APNs gave the channel, in base64. The app subscribes with it.")]
    storage: _Storage


class ChannelList(Struct, frozen=True):
    """The ids of all channels of the app, at most 10,000."""

    channels: list[str]


def read_channel(body: bytes) -> Storage:
    """Return the requested storage.

    Raises `MalformedBody`, or `InvalidRequest` with every fault.
    """
    value = parse(body)
    if not isinstance(value, dict):
        raise InvalidRequest(faults=[Fault("$", expected("an object", value))])
    faults = [Fault(join("", name), "unknown field; known here: storage") for name in value if name != "storage"]
    storage: Any = value.get("storage")
    if storage is None:
        faults.append(Fault("storage", 'is missing: "none" or "latest"'))
    elif storage not in STORAGES:
        faults.append(Fault("storage", expected('"none" or "latest"', storage)))
    if faults:
        raise InvalidRequest(faults=faults[:1000])
    chosen: Storage = storage
    return chosen
