"""Nothing of ours believes a certificate by its common name: RFC 9525 6.3. Real sockets, each kind of client."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pushsvc.cli.access import Access
from pushsvc.cli.operator.calls import open_calls
from pushsvc.client import Refused, Unreachable
from pushsvc.lab.simulator.certificates import Keys
from pushsvc.net.http2.transport import Pool
from pushsvc.providers.endpoint import tls_context
from pushsvc.providers.fcm.config import Config as FcmConfig
from pushsvc.providers.fcm.credentials import TokenRefusedError, load_service_account
from pushsvc.stages.webhooks.caller import open_caller
from pushsvc.stages.webhooks.config import WebhookConfig

from ..unit.credential_files import write_service_account

Ask = Callable[[str, str], Awaitable[str]]
"""Connects to an origin with this `ca_file`; says what went wrong."""


async def provider(origin: str, ca_file: str) -> str:
    async with Pool(origin, ssl=tls_context(ca_file), connections=1, connect_timeout=20.0) as pool:
        while "not connected yet" in pool.trouble:
            await asyncio.sleep(0.01)
        return pool.trouble


async def webhook(origin: str, ca_file: str) -> str:
    config = WebhookConfig(url=f"{origin}/hook", keys=(b"k" * 32,), allow_private=True, ca_file=ca_file)
    async with open_caller(config, "shop") as caller:
        return (await caller.post("id", b"{}")).reason


async def token_endpoint(origin: str, ca_file: str) -> str:
    folder = Path(ca_file).parent
    path = write_service_account(folder, token_uri=f"{origin}/token")
    account = load_service_account(FcmConfig(service_account_file=path, ca_file=ca_file))
    try:
        await asyncio.to_thread(account.fetch)
    except TokenRefusedError as error:
        return str(error)
    return ""


async def command_line(origin: str, ca_file: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", ca_file)
        try:
            async with open_calls(Access(origin, "key")) as api:
                await api.document("GET", "/v1/push/x")
        except Unreachable as error:
            return str(error)
        except Refused:
            pass
    return ""


@pytest.mark.parametrize(
    ("ask", "says"),
    [(provider, "certificate"), (webhook, "tls"), (token_endpoint, "certificate"), (command_line, "certificate")],
    ids=["provider", "webhook", "token endpoint", "command line"],
)
@pytest.mark.parametrize("named", [True, False], ids=["subjectAltName", "common name alone"])
async def test_a_certificate_names_its_host_or_is_refused(tmp_path: Path, ask: Ask, says: str, named: bool) -> None:
    keys = Keys()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(keys.ca_pem)
    context = keys.server_context("localhost", ["h2", "http/1.1"])
    if not named:
        bare = tmp_path / "bare.pem"
        bare.write_bytes(keys.server_certificate("localhost", None))
        context.load_cert_chain(bare)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        said = await ask(f"https://localhost:{port}", str(ca_file))
    assert (says in said) is not named, said


async def test_the_server_of_this_test_would_be_believed_by_a_careless_client(tmp_path: Path) -> None:
    """Else the test above would prove nothing: the certificate is good but for its names."""
    keys = Keys()
    (tmp_path / "bare.pem").write_bytes(keys.server_certificate("localhost", None))
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(tmp_path / "bare.pem")
    careless = ssl.create_default_context(cadata=keys.ca_pem.decode())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side) as server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("localhost", port, ssl=careless)
        writer.close()
