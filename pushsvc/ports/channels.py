"""Broadcast channels (APNs, iOS 18): what is sent to one reaches everybody who listens to it.

They live at the provider alone, so each call here is a request to it: it takes up to the request timeout, or twice that
where the provider token had to be renewed. Every method raises `Conflict` where the account's state forbids it,
`BadGateway` where the provider refuses the account, and `Unavailable` where it is in trouble or does not answer.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

Storage: TypeAlias = Literal["none", "latest"]
"""What the provider keeps for phones that are away: nothing, which allows more pushes, or the latest push."""


class Channel(Struct, frozen=True):
    """A channel as the provider knows it. Neither can be changed later."""

    id: str
    """The provider's own id, base64, to be shared with the app."""
    storage: Storage


class ChannelAccount(Protocol):
    """The channels of one app."""

    async def create(self, storage: Storage) -> Channel: ...

    async def all(self) -> list[str]:
        """The ids of all channels."""
        ...

    async def get(self, channel_id: str) -> Channel:
        """Raises `NotFound` too."""
        ...

    async def delete(self, channel_id: str) -> None:
        """For good: an id is never given out again. Raises `NotFound` too."""
        ...


class Channels(Protocol):
    """The channels of every app."""

    def of(self, app: str) -> AbstractAsyncContextManager[ChannelAccount]:
        """Those of one app, for the length of the block. Raises `Conflict` where the app's providers have none."""
        ...
