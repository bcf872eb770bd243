"""`POST /emulation`: what a client of HTTP streaming or SSE has to say, for a session of this gateway or another one.

The body is `{"session", "node", "data"}` with the message as a string, or the Protobuf message `EmulationRequest`.
Source: `emulation.go` of https://github.com/centrifugal/centrifuge
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ...errors import ContentTooLarge, MalformedBody, NotFound
from ..peer import Request
from .http import HttpAnswer, HttpRoute

PATH: Final = "/emulation"
PROTOBUF: Final = "application/octet-stream"

Deliver: TypeAlias = Callable[[str, bytes], bool]
Forward: TypeAlias = Callable[[str, str, bytes], Awaitable[bool]]
"""Hand a message to another gateway, by its node, the session and the message; False if the session is not there."""


class _Command(Struct):
    session: str
    data: str
    node: str = ""


_decode = msgspec.json.Decoder(_Command).decode


def emulation_route(deliver: Deliver, node: str, forward: Forward | None, most: int) -> HttpRoute:
    """Return the route that hands messages to their sessions: of this gateway by `deliver`, else by `forward`.

    A message of more than `most` bytes is refused.
    """

    async def emulate(request: Request) -> HttpAnswer:
        is_protobuf = request.headers.get("content-type", "") == PROTOBUF
        home, session, data = read_protobuf(request.body) if is_protobuf else read_json(request.body)
        if len(data) > most:
            raise ContentTooLarge(f"The message is larger than {most:,} bytes.")
        if not deliver(session, data) and (
            forward is None or home in ("", node) or not session or not await forward(home, session, data)
        ):
            raise NotFound("There is no such session.")
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
    fields = {1: b"", 2: b"", 3: b""}
    at = 0
    try:
        while at < len(body):
            key, at = body[at], at + 1
            if key & 0x87 != 2:  # Only fields below 16 with a length are in this message.
                raise ValueError
            size, shift = 0, 0
            while True:
                byte, at = body[at], at + 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if at + size > len(body):
                raise ValueError
            fields[key >> 3] = body[at : at + size]
            at += size
        return fields[1].decode(), fields[2].decode(), fields[3]
    except (ValueError, IndexError):
        raise MalformedBody("The body is not an EmulationRequest in Protobuf.") from None
