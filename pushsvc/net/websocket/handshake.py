"""The request that asks for a WebSocket, and its answer. Pure.

Source: RFC 6455, section 4.2, https://www.rfc-editor.org/rfc/rfc6455#section-4.2
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = "13"


class HandshakeRefused(Exception):
    """The request is not a valid handshake; `status` and `headers` are those of the answer."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def request(host: str, target: str, key: str, subprotocol: str = "") -> bytes:
    """Return the request of a client; `key` is the base64 of 16 random bytes."""
    lines = (
        f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: {_VERSION}\r\nSec-WebSocket-Key: {key}\r\n"
    )
    return (lines + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else "") + "\r\n").encode()


def is_open(head: bytes, key: str) -> bool:
    """Return whether the head of an answer opens the WebSocket that was asked for with `key`."""
    status, *lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return status.split(b" ")[1:2] == [b"101"] and fields.get(b"sec-websocket-accept") == accept_key(key)


def accept(method: str, headers: Mapping[str, str], subprotocols: Sequence[str] = ()) -> tuple[bytes, str]:
    """Return the answer that opens the WebSocket, and the subprotocol: the first of the client's that is in
    `subprotocols`, or ''.

    `headers` have lower-case names, and the values of a repeated one joined by commas. Raises `HandshakeRefused`.
    """
    if "websocket" not in _words(headers.get("upgrade", "")) or "upgrade" not in _words(headers.get("connection", "")):
        raise HandshakeRefused(
            426, "This path is for WebSocket connections.", {"Upgrade": "websocket", "Connection": "Upgrade"}
        )
    if method != "GET":
        raise HandshakeRefused(405, "Open a WebSocket with GET.", {"Allow": "GET"})
    if headers.get("sec-websocket-version") != _VERSION:
        raise HandshakeRefused(
            426, f"Only version {_VERSION} of WebSocket is supported.", {"Sec-WebSocket-Version": _VERSION}
        )
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise HandshakeRefused(400, "Sec-WebSocket-Key is not the base64 of 16 bytes.")
    offered = (word.strip() for word in headers.get("sec-websocket-protocol", "").split(","))
    chosen = next((word for word in offered if word in subprotocols), "")
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n"
        % accept_key(key)
    )
    if chosen:
        answer += b"Sec-WebSocket-Protocol: %b\r\n" % chosen.encode()
    return answer + b"\r\n", chosen


def accept_key(key: str) -> bytes:
    """Return the value of `Sec-WebSocket-Accept` for a client's key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest())


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",")}


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
