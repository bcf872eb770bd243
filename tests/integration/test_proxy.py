"""Pushes and token requests through a real CONNECT proxy: with a password, without the right one, and when it goes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pushsvc.lab.simulator import Simulator, SimulatorConfig

from .harness import Service, apns, fcm, running_service

USER = "u%40corp:p%2Fss"
WANTED = b"Basic " + base64.b64encode(b"u@corp:p/ss")


class ConnectProxy:
    """A small HTTP proxy that knows CONNECT. `asked` has the authority of each tunnel, in order."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[str] = []
        self.refused = 0
        self.refuses = False
        self.handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{USER}@127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        try:
            await self._tunnel(reader, writer)
        finally:
            await _close(writer)
            self.handlers.discard(task)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
            method, authority, _ = lines[0].decode().split()
            assert method == "CONNECT"
            if self.refuses or fields.get(b"proxy-authorization") != WANTED:
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            self.asked.append(authority)
            host, _, port = authority.rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
            finally:
                await _close(far_writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await source.read(65_536):
            sink.write(part)
            await sink.drain()
    sink.close()


@asynccontextmanager
async def a_proxy() -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in set(proxy.handlers):
            task.cancel()
        await asyncio.gather(*proxy.handlers, return_exceptions=True)


async def held(service: Service) -> dict[str, str]:
    async with service.session.get("/readyz") as answer:
        found: dict[str, str] = (await answer.json()).get("held", {})
        return found


async def test_pushes_and_token_requests_take_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_proxy() as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with running_service(tmp_path, connections=1) as service:
            push = await service.push(apns("ok", 1) + fcm("ok", 1))
            assert await service.done(push) == {"total": 2, "sent": 2}
            wanted = {url.removeprefix("https://") for url in (service.simulator.apns_url, service.simulator.fcm_url)}
            assert set(proxy.asked) > wanted
            assert len(set(proxy.asked)) == 3  # and the endpoint that issues tokens


async def test_a_proxy_that_refuses_is_named_where_the_route_is_held(tmp_path: Path) -> None:
    async with a_proxy() as proxy:
        proxy.refuses = True
        async with Simulator(SimulatorConfig(folder=str(tmp_path / "other"))) as other:
            credentials = other.write_credentials(tmp_path / "other")
            account = f"""
[apps.shop.apns_sandbox]
key_file = "{credentials.apns_key_file}"
key_id = "{credentials.key_id}"
team_id = "{credentials.team_id}"
topic = "{credentials.topic}"
endpoint = "{other.apns_url}"
ca_file = "{credentials.ca_file}"
proxy = "{proxy.url}"
"""
            async with running_service(tmp_path, extra=account) as service:
                stranger = [{**token, "environment": "sandbox"} for token in apns("ok", 1)]
                push = await service.push(stranger)

                async def named() -> bool:
                    why = (await held(service)).get("shop/apns_sandbox", "")
                    return f"proxy 127.0.0.1:{proxy.port} refuses the tunnel" in why and "407" in why

                await service.until("the proxy is named", named)
                assert "p%2Fss" not in str(await held(service))
                # The other routes have nothing to do with it.
                assert await service.done(await service.push(apns("ok", 2) + fcm("ok", 2))) == {
                    "total": 2,
                    "sent": 2,
                }
                proxy.refuses = False
                assert await service.done(push) == {"total": 1, "sent": 1}
