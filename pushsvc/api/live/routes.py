"""The rows of the calls about the live channel."""

from __future__ import annotations

from typing import Final

from ...errors import Conflict, NotFound
from ..call import Answer, Document, rows
from ..devices.routes import DEVICE, USER
from ..http.exchange import Request
from .calls import delete_token, get_live, get_presence, live_of, post_token
from .document import DeviceToken, LiveConnections, TokenDocument, UserPresence, read_ttl


def _read_ttl(body: bytes, request: Request) -> int:
    return read_ttl(body, live_of(request))


_row: Final = rows("devices", "admin")

CALLS: Final = (
    _row(
        *(
            "POST /v1/devices/{device_id}/token",
            "post_token",
            Document(TokenDocument, _read_ttl, post_token, optional=True),
        ),
        "Issue the token with which a device connects to the live channel.",
        Answer(200, "The token, and where the device connects.", DeviceToken),
        description=(
            "The device gets it from your backend, each time that it has none or its own has expired. Earlier tokens "
            "stay valid. 409 means that the app has no live channel, or no secret to sign with."
        ),
        names=(DEVICE,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("DELETE /v1/devices/{device_id}/token", "delete_token", delete_token),
        "Revoke the tokens of a device.",
        Answer(204, "Tokens that were issued before are refused, and the connection of the device is closed."),
        description="A repeat does the same again. Tokens that are issued afterwards are valid.",
        names=(DEVICE,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("GET /v1/users/{user}/presence", "get_presence", get_presence),
        "List which devices of a user are online.",
        Answer(200, "The devices of the user.", UserPresence),
        description=(
            "A device whose network has gone away counts as online until its gateway misses its heartbeat. 409 means "
            "that the app has no live channel."
        ),
        names=(USER,),
        raises=(Conflict,),
    ),
    _row(
        *("GET /v1/live", "get_live", get_live),
        "Get the number of connections of the app.",
        Answer(200, "The connections, by gateway.", LiveConnections),
        description="Each gateway reports its number every few seconds. 409 means that the app has no live channel.",
        raises=(Conflict,),
    ),
)
