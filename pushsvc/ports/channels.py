"""Broadcast channels (APNs, iOS 18): a push to a channel reaches every device that listens to it.

Channels exist only at the provider, so each call here is a request to it. A call takes up to the request timeout, or
twice that when the provider token has to be renewed. Every method raises `Conflict` where the account's state forbids
the call, `BadGateway` where the provider refuses the account, and `Unavailable` where the account is in trouble or the
provider does not answer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

Storage: TypeAlias = Literal["none", "latest"]
"""What the provider stores for devices that are offline: nothing, which allows more pushes, or the latest push."""


class Channel(Struct, frozen=True):
    """A channel as the provider knows it. Neither field can be changed later."""

    id: str
    """The provider's own id, in base64, which the app needs to subscribe."""
    storage: Storage


class ChannelAccount(Protocol):
    async def create(self, storage: Storage) -> Channel: ...

    async def all(self) -> list[str]:
        """Return the ids of all channels."""

    async def get(self, channel_id: str) -> Channel:
        """Return a channel. Raises `NotFound` where the id is unknown."""

    async def delete(self, channel_id: str) -> None:
        """Delete a channel permanently; its id is never used again. Raises `NotFound` where the id is unknown."""


class Channels(Protocol):
    def of(self, app: str) -> AbstractAsyncContextManager[ChannelAccount]:
        """Open the channels of one app for the length of the block. Raises `Conflict` where no provider of the app has
        channels."""
