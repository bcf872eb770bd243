"""The documents of broadcast channels, and their validation. Pure."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...bodies import read_document
from ...ports.channels import Storage

_Storage = Annotated[
    Storage,
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
    return read_document(body, ChannelDocument).storage
