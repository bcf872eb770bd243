"""The handlers for broadcast channels, each of which sends a request to the provider."""

from __future__ import annotations

from urllib.parse import quote

from ...ports.channels import Storage
from ..http.exchange import NO_CONTENT, Reply, Request
from ..ports import ApiPorts
from .document import Channel, ChannelList


async def post_channel(ports: ApiPorts, request: Request, storage: Storage) -> Reply:
    """Create a channel."""
    async with ports.channels.of(request.app.name) as account:
        made = await account.create(storage)
    return Reply(Channel(made.id, made.storage), 201, {"Location": f"/v1/channels/{quote(made.id, safe='')}"})


async def get_channels(ports: ApiPorts, request: Request) -> Reply:
    """Return the ids of all channels."""
    async with ports.channels.of(request.app.name) as account:
        return Reply(ChannelList(await account.all()))


async def get_channel(ports: ApiPorts, request: Request) -> Reply:
    """Return a channel."""
    async with ports.channels.of(request.app.name) as account:
        found = await account.get(request.params["id"])
    return Reply(Channel(found.id, found.storage))


async def delete_channel(ports: ApiPorts, request: Request) -> Reply:
    """Delete a channel permanently."""
    async with ports.channels.of(request.app.name) as account:
        await account.delete(request.params["id"])
    return NO_CONTENT
