"""One call on real sockets: what arrives, what an answer means, and which places are never reached."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushsvc.errors import ConfigError
from pushsvc.lab.simulator.certificates import Keys
from pushsvc.model.signing import sign
from pushsvc.stages.webhooks.caller import open_caller
from pushsvc.stages.webhooks.checks import check
from pushsvc.stages.webhooks.config import WebhookConfig
from pushsvc.stages.webhooks.verdict import WebhookReply

KEY = bytes(range(32))
NOW = 1_796_115_600.75

Answering = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Seen:
    """What a server has seen."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()
        """The caller has closed a connection."""


@asynccontextmanager
async def listening(answer: Answering | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Seen]:
    """A server on IPv4's loopback that reads requests and answers them, by bytes or by hand."""
    seen = Seen()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                request = head + await reader.readexactly(length)
                seen.requests.append(request)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(request, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            seen.gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    async with server:
        yield seen


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def config(url: str, **more: Any) -> WebhookConfig:
    plain = WebhookConfig(url=url, keys=(KEY,), allow_private=True, timeout=20.0)
    return msgspec.structs.replace(plain, **more)


async def post(reported: WebhookConfig, times: int = 1, *, trace: bytes = b"") -> WebhookReply:
    """The last answer."""
    async with open_caller(reported, "shop", clock=lambda: NOW) as caller:
        for _ in range(times):
            answer = await caller.post("feedback_shop_1-0", b'{"a":1}', trace=trace)
    return answer


async def test_what_arrives() -> None:
    headers = {"Authorization": "Bearer x", "X-Key": "a, b"}
    async with listening(OK) as seen:
        assert await post(
            config(f"http://127.0.0.1:{seen.port}/a%2Fb%40?c=d%26e%3D", headers=headers), 2
        ) == WebhookReply(200, "http_200")
        head, _, body = seen.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert first == "POST /a%2Fb%40?c=d%26e%3D HTTP/1.1"
        assert body == b'{"a":1}'
        wanted = sign([KEY], "feedback_shop_1-0", 1_796_115_600, body)
        assert {name: found[name] for name in wanted} == wanted
        assert (found["authorization"], found["x-key"]) == ("Bearer x", "a, b")
        assert found["content-type"] == "application/json"
        assert found["user-agent"].startswith("pushsvc/")
        assert not {"cookie", "traceparent"} & found.keys()
        # The second went by the same connection.
        assert (len(seen.requests), seen.connections) == (2, 1)
        await post(config(f"http://127.0.0.1:{seen.port}/"), trace=bytes(range(24)))
        wanted_trace = f"00-{bytes(range(16)).hex()}-{bytes(range(16, 24)).hex()}-01"
        assert f"\r\ntraceparent: {wanted_trace}\r\n".encode() in seen.requests[-1]


@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", WebhookReply(204, "http_204")),
        (b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", WebhookReply(410, "http_410")),
        (b"HTTP/1.1 429 x\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", WebhookReply(429, "http_429", 7.0)),
        (
            b"HTTP/1.1 503 x\r\nDate: Tue, 01 Dec 2026 09:00:00 GMT\r\nRetry-After: Tue, 01 Dec 2026 09:01:00 GMT\r\n"
            b"Content-Length: 0\r\n\r\n",
            WebhookReply(503, "http_503", 60.0),
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            WebhookReply(302, "http_302"),
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nnot all", WebhookReply(200, "http_200")),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nxxxx", WebhookReply(200, "http_200")),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", WebhookReply(0, "broken_off")),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", WebhookReply(0, "broken_off")),
    ],
    ids=["204", "410", "seconds", "date", "redirect", "cut short", "no gzip", "endless header", "no HTTP"],
)
async def test_answers(raw: bytes, answer: WebhookReply) -> None:
    async def reply(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        raise ConnectionAbortedError

    async with listening(reply) as seen:
        assert await post(config(f"http://127.0.0.1:{seen.port}/")) == answer


@pytest.mark.parametrize(("piece", "pause"), [(b"x" * 65536, 0.0), (b"x", 0.05)], ids=["endless", "dripping"])
async def test_an_answer_without_an_end_is_left(piece: bytes, pause: float) -> None:
    async def endless(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    async with listening(endless) as seen:
        assert await post(config(f"http://127.0.0.1:{seen.port}/")) == WebhookReply(200, "http_200")
        await seen.gone.wait()


async def test_no_answer() -> None:
    async def silence(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def hang_up(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionAbortedError

    async with listening(silence) as seen:
        assert await post(config(f"http://127.0.0.1:{seen.port}/", timeout=0.1)) == WebhookReply(0, "timeout")
    async with listening(hang_up) as seen:
        assert await post(config(f"http://127.0.0.1:{seen.port}/")) == WebhookReply(0, "broken_off")
    # Nobody listens there any more.
    assert await post(config(f"http://127.0.0.1:{seen.port}/")) == WebhookReply(0, "unreachable")
    assert await post(config("https://no.such.host.invalid/")) == WebhookReply(0, "name_unknown")


async def test_certificates(tmp_path: Path) -> None:
    ours, others = Keys(), Keys()
    for name, keys in (("ours", ours), ("others", others)):
        (tmp_path / name).write_bytes(keys.ca_pem)
    async with listening(OK, ours.server_context("127.0.0.1", ["http/1.1"])) as seen:
        url = f"https://127.0.0.1:{seen.port}/"
        good = config(url, ca_file=str(tmp_path / "ours"))
        assert await post(good) == WebhookReply(200, "http_200")
        assert await post(config(url, ca_file=str(tmp_path / "others"))) == WebhookReply(0, "tls")
        assert await post(config(url)) == WebhookReply(0, "tls")
        assert len(seen.requests) == 1
        levels = [(each.level, each.what) for each in await check(good, "shop")]
        assert levels[0] == ("ok", "127.0.0.1 leads to 127.0.0.1")
        assert levels[1][0] == "ok"
    (tmp_path / "empty").touch()
    for name, why in (("empty", "not certificates"), ("missing", "No such file")):
        bad = config(url, ca_file=str(tmp_path / name))
        with pytest.raises(ConfigError, match=rf"apps\.shop\.webhook\.ca_file: .*{why}"):
            await post(bad)
        assert (await check(bad, "shop"))[-1].level == "error"


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(OK) as proxy, listening(OK) as seen:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(config(f"http://127.0.0.1:{seen.port}/"))).status == 200
        assert (proxy.connections, len(seen.requests)) == (0, 1)


# --- places that are not to be reached --------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "address_refused"),
        ("localhost", "address_refused"),
        ("localhost.", None),
        ("LOCALHOST", "address_refused"),
        ("0.0.0.0", "address_refused"),
        ("[::1]", "address_refused"),
        ("[::]", "address_refused"),
        ("[::ffff:127.0.0.1]", "address_refused"),
        ("[::ffff:7f00:1]", "address_refused"),
        ("169.254.169.254", "address_refused"),
        ("[fd00:ec2::254]", "address_refused"),
        ("2130706433", "bad_url"),
        ("0x7f000001", None),
        ("0177.0.0.1", None),
        ("127.1", "bad_url"),
        ("①②⑦.⓪.⓪.①", "address_refused"),
    ],
)
async def test_no_way_of_writing_it_leads_to_this_machine(host: str, reason: str | None) -> None:
    async with listening(OK) as seen:
        answer = await post(config(f"http://{host}:{seen.port}/", allow_private=False, timeout=5.0))
        assert answer.status == 0
        assert reason in (None, answer.reason)
        assert seen.connections == 0


NAME = "rebinding.example"


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a hostile resolver says of `NAME`, one list of addresses after the other, the last for good."""
    real = socket.getaddrinfo
    says: list[list[str]] = []

    def resolve(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != NAME:
            return real(host, port, *more, **named)
        addresses = says.pop(0) if len(says) > 1 else says[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return says


async def test_a_name_that_changes_where_it_leads_does_not_help(resolver: list[list[str]]) -> None:
    """DNS rebinding: whatever the resolver says, and when, no socket is made for an address that is not public."""
    async with listening(OK) as seen:
        hostile = config(f"http://{NAME}:{seen.port}/", allow_private=False)
        resolver[:] = [["198.41.0.4"], ["127.0.0.1"]]
        found = await check(hostile, "shop")
        assert found[0].level == "ok"  # it leads to a public address, this once
        assert await post(hostile) == WebhookReply(0, "address_refused")
        resolver[:] = [["127.0.0.1", "10.0.0.1", "169.254.169.254"]]
        assert await post(hostile) == WebhookReply(0, "address_refused")
        assert (await check(hostile, "shop"))[0].level == "error"
        resolver[:] = [["127.0.0.1", "198.41.0.4"]]
        assert (await check(hostile, "shop"))[0].level == "warning"
        assert seen.connections == 0
        # The same, where its owner allows it.
        resolver[:] = [["127.0.0.1"]]
        assert (await post(msgspec.structs.replace(hostile, allow_private=True))).status == 200


async def test_of_several_addresses_only_those_that_are_allowed_are_called(
    resolver: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No test calls a public address: one of this machine stands for it.
    monkeypatch.setattr("pushsvc.stages.webhooks.caller.is_public", lambda address: address == "127.0.0.1")

    async with listening(OK) as seen:
        private = 0

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal private
            private += 1
            writer.close()

        async with await asyncio.start_server(count, "127.0.0.2", seen.port):
            mixed = config(f"http://{NAME}:{seen.port}/", allow_private=False)
            for addresses in (["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]):
                resolver[:] = [addresses]
                assert (await post(mixed)).status == 200
            assert (private, len(seen.requests)) == (0, 2)


async def test_check_says_what_it_cannot_resolve() -> None:
    (found,) = await check(config("https://no.such.host.invalid/hidden"), "shop")
    assert (found.level, found.what) == ("warning", "no.such.host.invalid: no such name")
    refused = await check(config("http://[::1]:1/hidden", allow_private=False), "shop")
    assert [each.level for each in refused] == ["error", "warning"]
    assert "::1, not to the public internet" in refused[0].what
    assert not any("hidden" in each.what + each.remedy for each in [found, *refused])
