"""A scripted HTTP/2 server over real TLS for the transport's tests, on the independent `h2` library.

`h2` judges what the client sends: a frame against the protocol or beyond a window ends the connection there, and
`faults` keeps the reason. `processed` is the server's own record of the requests that it answered.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from pushsvc.net.http2.transport import HTTPS, POST, Answer, Pool, Response, authority, field, path

PATIENCE = 60.0
"""Seconds after which a test that waits in vain ends with an error."""


# Python 3.13 verifies strictly: an authority must say that it signs certificates.
_SIGNS = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


class Certificates:
    """A certificate authority and a server certificate for localhost, as PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.ca_file, self._chain = folder / "ca.pem", folder / "localhost.pem"
        ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        ca = _certificate(
            "pushsvc test CA", "pushsvc test CA", ca_key, ca_key, x509.BasicConstraints(True, None), _SIGNS
        )
        leaf = _certificate("localhost", "pushsvc test CA", key, ca_key, x509.SubjectAlternativeName(names))
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.ca_file.write_bytes(ca.public_bytes(pem))
        self._chain.write_bytes(leaf.public_bytes(pem) + private)

    def server(self, protocols: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._chain)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=not isinstance(extension, x509.SubjectAlternativeName))
    return builder.sign(signer, hashes.SHA256())


class Peer(asyncio.Protocol):
    """The server's end of one connection."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.open: set[int] = set()
        self.most_open = 0
        self.resets: dict[int, int] = {}
        self.goaway: events.ConnectionTerminated | None = None
        self._blocked: dict[int, bytes] = {}

    # --- what scripts call ----------------------------------------------------------------------

    def answer(self, stream: int, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Answer a request, and record it as processed."""
        self.server.processed[self.requests[stream][":path"]] += 1
        self.open.discard(stream)
        fields = [(":status", str(status)), *(headers or {}).items()]
        self.h2.send_headers(stream, fields, end_stream=not body)
        if body:
            self._blocked[stream] = body
            self._send_bodies()
        self.flush()

    def reset(self, stream: int, code: int) -> None:
        self.open.discard(stream)
        self.h2.reset_stream(stream, code)
        self.flush()

    def settings(self, **values: int) -> None:
        self.h2.update_settings({SettingCodes[name.upper()]: value for name, value in values.items()})
        self.flush()

    def go_away(self, last_stream: int, code: int = 0, debug: bytes = b"") -> None:
        """Past `h2`, which would answer nothing any more after its own GOAWAY."""
        self.frame(GoAwayFrame(0, last_stream, code, debug))

    def frame(self, frame: Frame) -> None:
        self.raw(frame.serialize())

    def raw(self, data: bytes) -> None:
        self.transport.write(data)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and self.server.dribble:
            for byte in data:
                self.transport.write(bytes([byte]))
        elif data:
            self.transport.write(data)

    # --- reports of the transport ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.peers.append(self)
        self.server.connected(self)

    def greet(self) -> None:
        given = {SettingCodes[name.upper()]: value for name, value in self.server.initial_settings.items()}
        self.h2.local_settings = Settings(client=False, initial_values=given)
        self.h2.max_inbound_frame_size = self.h2.local_settings.max_frame_size
        self.h2.initiate_connection()
        self.server.greeted(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                self._handle(event)
            self.flush()
        except ProtocolError as error:
            self.server.faults.append(f"{type(error).__name__}: {error}")
            self.flush()
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.gone.append(self)

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.RequestReceived):
            self.requests[event.stream_id] = dict(cast(Any, event.headers))
            self.bodies[event.stream_id] = bytearray()
            self.open.add(event.stream_id)
            self.most_open = max(self.most_open, len(self.open))
        elif isinstance(event, events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.server.credit(self, event.stream_id, event.flow_controlled_length)
        elif isinstance(event, events.StreamEnded):
            self.server.requested(self, event.stream_id)
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
            self.open.discard(event.stream_id)
        elif isinstance(event, events.ConnectionTerminated):
            self.goaway = event
        elif isinstance(event, events.WindowUpdated | events.RemoteSettingsChanged):
            self._send_bodies()

    def _send_bodies(self) -> None:
        for stream, body in list(self._blocked.items()):
            while body and (room := min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)):
                self.h2.send_data(stream, body[:room], end_stream=len(body) <= room)
                body = body[room:]
            if body:
                self._blocked[stream] = body
            else:
                del self._blocked[stream]


class ScriptedServer:
    """A server whose behaviour is its attributes: replace what the test is about."""

    def __init__(self, certificates: Certificates, **initial_settings: int) -> None:
        self.certificates = certificates
        self.initial_settings = {"max_concurrent_streams": 1000, **initial_settings}
        self.protocols = ["h2"]
        self.dribble = False
        self.peers: list[Peer] = []
        self.gone: list[Peer] = []
        self.faults: list[str] = []
        self.processed: Counter[str] = Counter()
        self.connected: Callable[[Peer], None] = lambda peer: peer.greet()
        self.greeted: Callable[[Peer], None] = lambda peer: None
        self.requested: Callable[[Peer, int], None] = lambda peer, stream: peer.answer(stream)
        self.credit: Callable[[Peer, int, int], None] = lambda peer, stream, size: peer.h2.acknowledge_received_data(
            size, stream
        )
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Peer(self), "127.0.0.1", self.port, ssl=self.certificates.server(self.protocols)
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        assert self._server is not None
        self._server.close()
        for peer in self.peers:
            if peer not in self.gone:
                peer.transport.abort()
        await until(lambda: len(self.gone) == len(self.peers))
        await self._server.wait_closed()


@asynccontextmanager
async def serve(folder: Path, **initial_settings: int) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(Certificates(folder), **initial_settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


class Client:
    """A pool, and the answers that came, by the context of their request."""

    def __init__(self, pool: Pool, server: ScriptedServer) -> None:
        self.pool = pool
        self.answers: dict[Any, Answer] = {}
        self.repeated: list[Any] = []
        self._first = POST + HTTPS + authority(f"localhost:{server.port}")
        self._inside = False

    def submit(self, *names: Any, body: bytes = b"{}") -> None:
        for name in names:
            self._inside = True
            self.pool.submit(
                self._first + path(f"/{name}") + field("apns-topic", "com.example.shop"), body, name, self._take
            )
            self._inside = False

    def _take(self, name: Any, answer: Answer) -> None:
        assert not self._inside, "answered from inside submit"
        if name in self.answers:
            self.repeated.append(name)
        self.answers[name] = answer

    async def answered(self, *names: Any) -> list[Answer]:
        """The answers of these requests, once all are there."""
        await until(lambda: all(name in self.answers for name in names), lambda: f"{len(self.answers)} of {len(names)}")
        assert not self.repeated
        return [self.answers[name] for name in names]

    async def send(self, *names: Any, body: bytes = b"{}") -> list[Answer]:
        self.submit(*names, body=body)
        return await self.answered(*names)

    async def up(self) -> None:
        await until(lambda: self.pool.room > 0, lambda: self.pool.trouble)


@asynccontextmanager
async def client(server: ScriptedServer, **options: Any) -> AsyncIterator[Client]:
    """Return a client of `server`, by default with one connection and long timeouts for slow machines."""
    options = {"connections": 1, "request_timeout": 2 * PATIENCE, "ssl": server.certificates.client(), **options}
    async with Pool(server.origin, **options) as pool:
        yield Client(pool, server)


async def until(condition: Callable[[], object], say: Callable[[], object] = lambda: "") -> None:
    """Wait for a condition; an error after `PATIENCE`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not condition():  # what is waited for has no event of its own
                await asyncio.sleep(0.002)
            return
    raise AssertionError(f"waited {PATIENCE} s in vain: {say()}")


def statuses(answers: list[Answer]) -> Counter[object]:
    """How often each status came, and each failure as its reason and whether the request may have been sent."""
    return Counter(
        answer.status if isinstance(answer, Response) else (answer.reason, answer.maybe_sent) for answer in answers
    )


class _Watched:
    """Fails a test for whatever a callback has swallowed."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        context.setdefault("exception", AssertionError(context["message"]))
        super().call_exception_handler(context)  # type: ignore[misc]  # of the loop


class LOOP(_Watched, asyncio.SelectorEventLoop):
    """The event loop of asyncio."""


class WatchedUvloop(_Watched, uvloop.Loop):  # type: ignore[misc]  # its types are not quite those of asyncio
    """The event loop of libuv."""


both_loops = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {"loop_factory": loop}) for loop in (LOOP, WatchedUvloop)], ids=["asyncio", "uvloop"]
)
