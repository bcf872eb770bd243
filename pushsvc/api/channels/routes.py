"""The rows of the calls about broadcast channels."""

from __future__ import annotations

import re
from typing import Final

from ...errors import BadGateway, Conflict, NotFound
from ..call import Answer, Document, rows
from ..http.params import PathParam
from .calls import delete_channel, get_channel, get_channels, post_channel
from .document import Channel, ChannelDocument, ChannelList, read_channel

_CHANNEL_ID: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,512}")


def _channel_id(text: str) -> str:
    if not _CHANNEL_ID.fullmatch(text):
        raise NotFound("No channel has this id; ids are base64, percent-encoded in the path.")
    return text


_ID: Final = PathParam("id", "The id of the channel, percent-encoded.", {"type": "string", "minLength": 1}, _channel_id)
_ASKED: Final = (Conflict, BadGateway)
"""The refusals of calls that send a request to a provider."""
_row: Final = rows("push", "admin", raises=_ASKED)

CALLS: Final = (
    _row(
        *(
            "POST /v1/channels",
            "post_channel",
            Document(ChannelDocument, lambda body, _: read_channel(body), post_channel),
        ),
        "Create a broadcast channel (APNs, iOS 18).",
        Answer(201, "The new channel.", Channel, headers=(("Location", "The path of the channel."),)),
        description=(
            "Live Activities subscribe to a channel by its id; a push with the target "
            '`{"platform": "apns", "channel": "<id>"}` updates or ends all of them. APNs allows 10,000 channels per '
            "app: delete a channel when its event is over. 409 means that APNs allows no more channels, or that "
            "broadcasts are not enabled for the app."
        ),
    ),
    _row(
        *("GET /v1/channels", "get_channels", get_channels),
        "List the ids of the broadcast channels of the app.",
        Answer(200, "All ids.", ChannelList),
    ),
    _row(
        *("GET /v1/channels/{id}", "get_channel", get_channel),
        "Get a broadcast channel.",
        Answer(200, "The channel.", Channel),
        names=(_ID,),
        raises=(*_ASKED, NotFound),
    ),
    _row(
        *("DELETE /v1/channels/{id}", "delete_channel", delete_channel),
        "Delete a broadcast channel permanently.",
        Answer(204, "The channel is deleted. Messages that APNs had stored may still be delivered.", no_store=False),
        names=(_ID,),
        raises=(*_ASKED, NotFound),
    ),
)
