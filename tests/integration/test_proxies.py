"""The examples of proxies in `config/proxy`, each with the real proxy in front of real sockets: what is written arrives
at once, and no log has a token."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pushsvc.live.peer import Request
from pushsvc.live.sockets.http import HttpAnswer, HttpRoute
from pushsvc.model.live import denied
from pushsvc.settings.live import LiveSettings

from .live_rig import LOOP as LOOP, Client, Gateway, Session, gateway, masked, upgrade_request
from .ports import free_ports
from .servers import skip_or_fail

EXAMPLES = Path(__file__).parents[2] / "config" / "proxy"
HOST = "push.example.com"
TOKEN = "very-secret"
CONNECT = json.dumps({"id": 1, "connect": {"token": TOKEN}})


def certificate(folder: Path) -> Path:
    """Write a certificate for the name of the examples, with its key; return the file of both."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "both.pem"
    file.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return file


def nginx(folder: Path, port: int, api: int, live: int) -> list[str]:
    """Write the example for these ports; return the command that runs it."""
    text = example(
        "nginx.conf",
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", f"127.0.0.1:{api}"),
        ("127.0.0.1:8081", f"127.0.0.1:{live}"),
        ("/etc/letsencrypt/live/push.example.com/fullchain.pem", str(folder / "both.pem")),
        ("/etc/letsencrypt/live/push.example.com/privkey.pem", str(folder / "both.pem")),
        ("/var/log/nginx/pushsvc.log", str(folder / "access.log")),
        ("/var/log/nginx/pushsvc.error.log", str(folder / "error.log")),
    )
    folders = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{name}_temp_path {folder / name};" for name in folders)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {folder / 'pid'}; error_log {folder / 'main.log'};"
        f"events {{ worker_connections 64; }} http {{ {paths}\n{text} }}"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "main.log")]


def haproxy(folder: Path, port: int, api: int, live: int) -> list[str]:
    """Write the example for these ports; return the command that runs it."""
    text = example(
        "haproxy.cfg",
        ("bind :443 ", f"bind 127.0.0.1:{port} "),
        ("127.0.0.1:8080", f"127.0.0.1:{api}"),
        ("127.0.0.1:8081", f"127.0.0.1:{live}"),
        ("/etc/haproxy/push.example.com.pem", str(folder / "both.pem")),
        ("log /dev/log local0", "log stdout format raw local0"),
        ("maxconn 200000", "maxconn 64"),
        ("timeout connect 5s", "timeout connect 5s\n    retries 0"),
    )
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


def example(name: str, *changes: tuple[str, str]) -> str:
    text = (EXAMPLES / name).read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


PROXIES = {"nginx": nginx, "haproxy": haproxy}


class Proxied:
    """A proxy in front of a gateway and of an API that answers with its path, and whether the request was passed on."""

    def __init__(self, folder: Path, live: Gateway, port: int) -> None:
        self.live = live
        self._folder = folder
        self._port = port
        self._trusted = ssl.create_default_context(cafile=str(folder / "both.pem"))

    async def connect(self) -> Client:
        """Return a client of the proxy, which may still be starting."""
        while True:
            try:
                pair = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._trusted, server_hostname=HOST)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                client = Client(*pair)
                self.live.clients.append(client)
                return client

    def logs(self) -> str:
        return "".join(file.read_text() for file in sorted(self._folder.glob("*.log")))


async def _api(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split()[1] + (b" forwarded" if b"\r\nx-forwarded-for: " in head.lower() else b"")
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))
    writer.close()


async def _path(request: Request) -> HttpAnswer:
    return HttpAnswer(f"{request.path} {request.address}".encode(), media_type="text/plain")


@asynccontextmanager
async def proxied(kind: str, folder: Path) -> AsyncIterator[Proxied]:
    """Run a proxy by its example, with a gateway and an API behind it."""
    if shutil.which(kind) is None:
        skip_or_fail(f"no {kind} on PATH")
    certificate(folder)
    api = await asyncio.start_server(_api, "127.0.0.1", 0)
    routes = [HttpRoute("GET", "/v1/live/history", _path)]
    async with api, gateway(routes, proxies=denied(["127.0.0.1"]).networks) as live:
        port = free_ports()
        command = PROXIES[kind](folder, port, api.sockets[0].getsockname()[1], live.port)
        with (folder / "output.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
            try:
                yield Proxied(folder, live, port)
            finally:
                process.terminate()
                await process.wait()


@pytest.mark.parametrize("kind", PROXIES)
async def test_a_proxy_as_in_the_example(kind: str, tmp_path: Path) -> None:
    async with proxied(kind, tmp_path) as proxy:
        await _plain_calls(proxy)
        await _websocket(proxy)
        await _sse(proxy)
        await _http_stream(proxy)
        await _away(proxy)
    logs = proxy.logs()
    assert logs.count("/connection/sse") == 2
    assert TOKEN not in logs
    assert "cf_connect" not in logs


async def _plain_calls(proxy: Proxied) -> None:
    """Each path leads to its server, with the address of a client that another trusted proxy has forwarded."""
    client = await proxy.connect()
    for path, answer in [
        ("/v1/live/history", "/v1/live/history 203.0.113.7"),
        ("/v1/live", "/v1/live forwarded"),
        ("/v1/push", "/v1/push forwarded"),
    ]:
        status, _, body = await client.ask("GET", path, Host=HOST, X_Forwarded_For="203.0.113.7")
        assert (status, body.decode()) == (200, answer)
    # What the API shows to its own machine alone; it knows others by the header, however the path is written.
    status, _, _ = await client.ask("GET", "/metrics", Host=HOST)
    assert status == 403
    status, _, body = await (await proxy.connect()).ask("GET", "/%6detrics", Host=HOST)
    assert status == 403 or (status, body) == (200, b"/%6detrics forwarded")


async def _websocket(proxy: Proxied) -> None:
    client = await proxy.connect()
    # A page of the gateway's own host.
    client.send(upgrade_request(Origin=f"https://{HOST}").replace(b"gateway.test", HOST.encode()))
    assert (await client.head()).startswith("HTTP/1.1 101 ")
    client.send(masked(1, b"up"))
    assert await client.frame() == (1, b"up")
    session = await proxy.live.session(0)
    session.transport.write(b"down")
    assert await client.frame() == (1, b"down")
    session.transport.close(3001, "shutdown")
    assert await client.close_code() == 3001
    await session.end.wait()
    assert session.ended == [True]


async def _sse(proxy: Proxied) -> None:
    client = await proxy.connect()
    client.send(f"GET /connection/sse?cf_connect={quote(CONNECT)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    head = await client.head()
    assert "text/event-stream" in head
    session = await proxy.live.session(1)
    session.transport.write(b"at once")
    text = b""
    while b"data: at once" not in text:
        text += await client.chunk()
    assert session.messages == [CONNECT.encode()]
    client.abort()
    await _pinged_until_its_end(session)


async def _pinged_until_its_end(session: Session) -> None:
    """HAProxy notices the end of a client when something cannot be written to it."""
    while not session.end.is_set():
        session.transport.write(b"{}")
        await asyncio.sleep(0.01)


async def _http_stream(proxy: Proxied) -> None:
    client = await proxy.connect()
    body = CONNECT.encode()
    client.send(
        f"POST /connection/http_stream HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    assert " 200 " in await client.head()
    assert CONNECT.encode() in await client.chunk()
    session = await proxy.live.session(2)
    # A command by a call of its own.
    command = json.dumps({"session": session.transport.session, "node": "here", "data": "{}"}).encode()
    status, _, _ = await (await proxy.connect()).ask("POST", "/emulation", command, Host=HOST)
    assert status == 204
    assert b"{}" in await client.chunk()
    client.abort()
    await _pinged_until_its_end(session)


async def _away(proxy: Proxied) -> None:
    """Beside the errors of a gateway that is away no log has a query."""
    await proxy.live.sockets.drain(0)
    client = await proxy.connect()
    status, _, _ = await client.ask("GET", f"/connection/sse?cf_connect={quote(CONNECT)}", Host=HOST)
    assert status in (502, 503)


def test_the_limits_of_idle_connections_are_above_every_heartbeat() -> None:
    live = LiveSettings()
    for name, count in [("nginx.conf", 2), ("haproxy.cfg", 3)]:
        spans = [
            int(span)
            for span in re.findall(r"timeout (?:client |server |tunnel )?(\d{3,})s", (EXAMPLES / name).read_text())
        ]
        assert len(spans) == count, name
        assert min(spans) > live.heartbeat_max + live.pong_within
