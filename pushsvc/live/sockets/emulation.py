"""`POST /emulation`: what a client of HTTP streaming or SSE sends, to a session of this gateway or of another one.

The body is `{"session", "node", "data"}` with the message as a string, or the Protobuf message `EmulationRequest`.
Source: `emulation.go` of https://github.com/centrifugal/centrifuge
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ...errors import ContentTooLarge, MalformedBody, NotFound
from ...net.protobuf import MalformedMessage, Read, read_fields
from ..peer import Request
from .http import HttpAnswer, HttpRoute

PATH: Final = "/emulation"
PROTOBUF: Final = "application/octet-stream"
_NONCE: Final = 12
"""Bytes of the random part of a session, and of its authentication."""

Deliver: TypeAlias = Callable[[str, bytes], bool]
Forward: TypeAlias = Callable[[str, str, bytes], Awaitable[bool]]
"""Hand a message to another gateway, by its node, the session and the message; False if the session is not there."""


class NoSession(NotFound):
    """The session has ended, or never existed."""


class _Command(Struct):
    session: str
    data: str
    node: str = ""


_decode = msgspec.json.Decoder(_Command).decode
_FIELDS: Final[Mapping[int, tuple[str, Read]]] = {
    0x0A: ("node", bytes.decode),
    0x12: ("session", bytes.decode),
    0x1A: ("data", bytes),
}


def new_session(key: bytes) -> str:
    """Return a session that cannot be guessed, and that `is_session` knows by the same key."""
    nonce = secrets.token_bytes(_NONCE)
    return base64.urlsafe_b64encode(nonce + _mac(key, nonce)).decode()


def is_session(key: bytes, session: str) -> bool:
    """Return whether a gateway with this key has made the session, which may have ended since."""
    try:
        content = base64.urlsafe_b64decode(session)
    except ValueError:
        return False
    return hmac.compare_digest(content[_NONCE:], _mac(key, content[:_NONCE]))


def _mac(key: bytes, nonce: bytes) -> bytes:
    return hmac.digest(key, nonce, "sha256")[:_NONCE]


def emulation_route(deliver: Deliver, node: str, forward: Forward | None, most: int, key: bytes) -> HttpRoute:
    """Return the route that hands messages to their sessions: of this gateway by `deliver`, else by `forward`.

    A message of more than `most` bytes is refused. What is forwarded costs another gateway: only sessions that were
    made with `key` are, so that strangers cannot fill its inbox.
    """

    async def emulate(request: Request) -> HttpAnswer:
        is_protobuf = request.headers.get("content-type", "") == PROTOBUF
        home, session, data = read_protobuf(request.body) if is_protobuf else read_json(request.body)
        if len(data) > most:
            raise ContentTooLarge(f"The message is larger than {most:,} bytes.")
        if not deliver(session, data) and (
            forward is None
            or home in ("", node)
            or not is_session(key, session)
            or not await forward(home, session, data)
        ):
            raise NoSession("There is no such session.")
        return HttpAnswer(status=204)

    return HttpRoute("POST", PATH, emulate)


def read_json(body: bytes) -> tuple[str, str, bytes]:
    """Return node, session and message. Raises `MalformedBody`."""
    try:
        command = _decode(body)
        return command.node, command.session, command.data.encode()
    except (msgspec.DecodeError, UnicodeError):
        raise MalformedBody("The body is not {session, node, data} in JSON.") from None


def read_protobuf(body: bytes) -> tuple[str, str, bytes]:
    """Return node, session and message of an `EmulationRequest`. Raises `MalformedBody`."""
    try:
        fields = read_fields(body, _FIELDS)
        return fields.get("node", ""), fields.get("session", ""), fields.get("data", b"")
    except (MalformedMessage, UnicodeDecodeError, IndexError):
        raise MalformedBody("The body is not an EmulationRequest in Protobuf.") from None
