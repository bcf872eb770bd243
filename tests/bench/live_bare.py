"""The limit of a live channel in Python: a bare protocol on uvloop that keeps, checks and remembers nothing.

    python -m tests.bench.live_bare 8000

On one port it takes WebSockets of phones, and calls `POST` whose body names devices and a mark: each of them that is
connected gets a publication of the size of ours, and its acknowledgement an empty reply. A frame is read by as few
lines as that needs, and is whole in what a socket returns: only the phones of these benchmarks may connect.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final, cast

import msgspec
import uvloop

from pushsvc.runtime.parts import raise_file_limit

from .live_phones import claims_of

_SWITCHING: Final = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class _Command(msgspec.Struct):
    id: int
    connect: dict[str, str] | None = None
    rpc: dict[str, Any] | None = None


class _Call(msgspec.Struct):
    devices: list[str]
    data: msgspec.Raw


_command_of = msgspec.json.Decoder(_Command).decode
_call_of = msgspec.json.Decoder(_Call).decode
_online: Final[dict[str, asyncio.Transport]] = {}


def _frame(text: bytes) -> bytes:
    size = len(text)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2)) + text


class _Bare(asyncio.Protocol):
    """A phone, or a caller."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._io = cast(asyncio.Transport, transport)
        self._rest = b""
        self._is_phone = False

    def data_received(self, data: bytes) -> None:
        data, self._rest = self._rest + data, b""
        if self._is_phone:
            self._take_frames(data)
        elif data.startswith(b"GET "):
            self._is_phone = True
            self._io.write(_SWITCHING)
        else:
            self._take_call(data)

    def _take_call(self, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.rpartition(b"Content-Length: ")[2]):
            self._rest = data
            return
        call = _call_of(body)
        publication = _frame(b'{"push":{"channel":"device","pub":{"offset":1,"data":%s}}}' % bytes(call.data))
        for device in call.devices:
            _online[device].write(publication)
        self._io.write(_ANSWER)

    def _take_frames(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            size, start = data[at + 1] & 0x7F, at + 2
            if size == 126:
                size, start = int.from_bytes(data[start : start + 2]), start + 2
            key, start = data[start : start + 4], start + 4
            end = start + size
            mask = int.from_bytes((key * (size // 4 + 1))[:size])
            self._take((int.from_bytes(data[start:end]) ^ mask).to_bytes(size))
            at = end

    def _take(self, text: bytes) -> None:
        if text == b"{}":
            return
        command = _command_of(text)
        if command.connect is not None:
            _online[claims_of(command.connect["token"])["sub"]] = self._io
            self._io.write(_frame(b'{"id":%d,"connect":{}}' % command.id))
        else:
            self._io.write(_frame(b'{"id":%d,"rpc":{}}' % command.id))


async def _serve(port: int) -> None:
    raise_file_limit()
    async with await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", port, backlog=4096) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
