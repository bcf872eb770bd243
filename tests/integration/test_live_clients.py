"""The sockets of the live gateway by clients of other hands: the library `websockets`, TLS."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from pushsvc.lab.simulator.certificates import Keys
from pushsvc.net.tls import server_context

from .live_rig import LOOP as LOOP, Gateway, gateway


def _url(live: Gateway, query: str = "") -> str:
    return f"ws://127.0.0.1:{live.port}/connection/websocket{query}"


async def test_messages_of_all_sizes_go_both_ways() -> None:
    async with gateway(message_bytes=200_000) as live, connect(_url(live)) as client:
        for size in (0, 1, 125, 126, 127, 65_535, 65_536, 200_000):
            message = "é" * (size // 2) + "x" * (size % 2)
            await client.send(message)
            assert await client.recv() == message
        await client.send(["frag", "ments", " of ", "text"])
        assert await client.recv() == "fragments of text"
        pong = await client.ping(b"are you there?")
        await pong
        await client.send("x" * 200_001)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_a_client_offers_subprotocols_and_compression() -> None:
    async with gateway() as live:
        # Compression is offered by default, and declined.
        offered = [Subprotocol("centrifuge-protobuf")]
        async with connect(_url(live), subprotocols=offered, compression="deflate") as client:
            assert client.subprotocol == "centrifuge-protobuf"
            assert client.protocol.extensions == []
            await client.send(b"\x00\xff")
            assert await client.recv() == b"\x00\xff"


async def test_close_codes_go_both_ways() -> None:
    async with gateway() as live:
        async with connect(_url(live)) as client:
            (await live.session()).transport.close(3503, "revoked")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3503, "revoked")
            # The connection ends in both directions, and in order.
            await client.wait_closed()
            await live.sessions[0].end.wait()
            assert live.sessions[0].ended == [True]
        client = await connect(_url(live))
        await client.close(4000, "gone")
        session = await live.session(1)
        await session.end.wait()
        assert (session.ended, session.transport.code) == ([True], 4000)


async def test_a_page_of_elsewhere_is_refused() -> None:
    async with gateway() as live:
        with pytest.raises(InvalidStatus) as refused:
            await connect(_url(live), origin="https://elsewhere.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403


async def test_many_at_once() -> None:
    async with gateway() as live:

        async def talk(number: int) -> None:
            async with connect(_url(live)) as client:
                for n in range(5):
                    await client.send(f"{number}.{n}")
                    assert await client.recv() == f"{number}.{n}"

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(talk(number))
        assert sorted(len(session.messages) for session in live.sessions) == [5] * 40


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server with a certificate for 127.0.0.1, and of a client that trusts it."""
    keys = Keys()
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    (tmp_path / "server.pem").write_bytes(keys.server_certificate("gateway", names))
    (tmp_path / "ca.pem").write_bytes(keys.ca_pem)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    return server_context(str(tmp_path / "server.pem"), str(tmp_path / "server.pem")), client


async def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with gateway(tls=tls[0]) as live:
        assert live.sockets.url.startswith("https://")
        async with connect(_url(live).replace("ws:", "wss:"), ssl=tls[1]) as client:
            await client.send("x" * 60_000)
            assert await client.recv() == "x" * 60_000
            (await live.session()).transport.close(4501, "replaced")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4501
        # A client that breaks the protocol is answered over TLS too.
        reader, writer = await asyncio.open_connection("127.0.0.1", live.port, ssl=tls[1])
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
        writer.close()
        await live.sessions[0].end.wait()
