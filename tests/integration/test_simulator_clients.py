"""The simulator spoken to by clients that others wrote: aioapns, firebase-admin, httpx and pyreqwest."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import ssl
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import firebase_admin
import httpx
import jwt
import pytest
import uvloop
from aioapns import APNs, NotificationRequest, PushType
from aioapns.connection import APNsProductionClientProtocol
from firebase_admin import credentials as firebase_credentials, messaging

from pushsvc.lab.simulator import Credentials, Keys, Simulator, SimulatorConfig, apns_token, fcm_token

from ..timers import EARLY

TOKEN = "ab" * 32


@functools.cache
def keys() -> Keys:
    """Made once a test process: the RSA key takes a moment."""
    return Keys()


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops: their TLS is not the same code."""
    return "asyncio", {"loop_factory": request.param}


def trust(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(credentials.ca_file))
    context.set_alpn_protocols(["h2"])
    return context


def provider_token(credentials: Credentials, **claims: Any) -> str:
    claims = {"iss": credentials.team_id, "iat": int(time.time()), **claims}
    return jwt.encode(claims, credentials.apns_key_file.read_text(), "ES256", {"kid": credentials.key_id})


def apns_headers(credentials: Credentials) -> dict[str, str]:
    return {
        "authorization": f"bearer {provider_token(credentials)}",
        "apns-topic": credentials.topic,
        "apns-push-type": "alert",
        "apns-id": str(uuid.uuid4()),
    }


# --- aioapns --------------------------------------------------------------------------------------


def aioapns_client(simulator: Simulator, credentials: Credentials, **options: Any) -> Any:
    """aioapns with its one connection pointed at the simulator."""
    parts = urlsplit(simulator.apns_url)
    client = APNs(max_connections=1, ssl_context=trust(credentials), **options)
    client.pool.protocol_class = type(
        "Protocol", (APNsProductionClientProtocol,), {"APNS_SERVER": parts.hostname, "APNS_PORT": parts.port}
    )
    return client


async def test_aioapns(tmp_path: Path) -> None:
    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        client = aioapns_client(
            simulator,
            credentials,
            key=credentials.apns_key_file.read_text(),
            key_id=credentials.key_id,
            team_id=credentials.team_id,
            topic=credentials.topic,
        )

        async def send(token: str, **options: Any) -> tuple[str, str | None, int | None]:
            request = NotificationRequest(token, {"aps": {"alert": "x"}}, push_type=PushType.ALERT, **options)
            answer = await client.send_notification(request)
            return answer.status, answer.description, answer.timestamp

        assert await send(TOKEN) == ("200", None, None)
        assert await send(apns_token("Unregistered,since-1700000000123", "1")) == (
            "410",
            "Unregistered",
            1700000000123,
        )
        assert (await send("nothex"))[:2] == ("400", "BadDeviceToken")
        assert (await send(TOKEN, collapse_key="x" * 65))[:2] == ("400", "BadCollapseId")
        answers = await asyncio.gather(*(send(f"{number:064x}", priority=5) for number in range(500)))
        assert {answer[0] for answer in answers} == {"200"}
        client.pool.close()
        record = simulator.record.apns
        assert (record.accepted, record.distinct, record.duplicates) == (501, 501, 0)
        assert record.totals == {"200": 501, "400 BadCollapseId": 1, "400 BadDeviceToken": 1, "410 Unregistered": 1}
        assert record.traffic.protocol_errors == 0
        [received] = record.requests(token=f"{7:064x}")
        assert json.loads(received.body) == {"aps": {"alert": "x"}}
        assert received.fields["apns-priority"] == "5"


async def test_a_client_certificate(tmp_path: Path) -> None:
    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        context = trust(credentials)
        context.load_cert_chain(credentials.apns_cert_file)
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            headers = {"apns-push-type": "alert"}
            answer = await client.post(f"{simulator.apns_url}/3/device/{TOKEN}", json={"aps": {}}, headers=headers)
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            headers["apns-topic"] = "com.example.other"
            answer = await client.post(f"{simulator.apns_url}/3/device/{TOKEN}", json={"aps": {}}, headers=headers)
            assert answer.json() == {"reason": "TopicDisallowed"}
        stranger = Keys().client_certificate(credentials.topic)
        (tmp_path / "stranger.pem").write_bytes(stranger)
        context = trust(credentials)
        context.load_cert_chain(tmp_path / "stranger.pem")
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            with pytest.raises(httpx.TransportError):
                await client.post(f"{simulator.apns_url}/3/device/{TOKEN}", json={"aps": {}})
        assert simulator.record.apns.total == 2


# --- firebase-admin ----------------------------------------------------------------------------------


@pytest.fixture
def firebase(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Simulator, Credentials, str], Any]]:
    """firebase-admin's app pointed at the simulator; the last argument is its URL for sending."""
    apps: list[Any] = []

    def make(simulator: Simulator, credentials: Credentials, url: str) -> Any:
        monkeypatch.setenv("SSL_CERT_FILE", str(credentials.ca_file))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(credentials.ca_file))
        certificate = firebase_credentials.Certificate(str(credentials.service_account_file))
        app = firebase_admin.initialize_app(certificate, name=f"app{len(apps)}-{uuid.uuid4()}")
        apps.append(app)
        service = messaging._get_messaging_service(app)
        service._fcm_url = f"{url}/v1/projects/{credentials.project_id}/messages:send"
        return app

    yield make
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # google-auth leaves the session of its token calls open
        for app in apps:
            firebase_admin.delete_app(app)
        apps.clear()
        gc.collect()


def message(token: str) -> Any:
    return messaging.Message(
        fid=token,  # `token` is deprecated
        notification=messaging.Notification(title="t", body="b", image="https://example.com/i.png"),
        data={"order": "7"},
        android=messaging.AndroidConfig(
            collapse_key="c",
            priority="high",
            ttl=3600,
            notification=messaging.AndroidNotification(
                sound="default",
                title_loc_key="k",
                title_loc_args=["1"],
                priority="max",
                visibility="private",
                vibrate_timings_millis=[100, 2500],
                light_settings=messaging.LightSettings("#112233", 200, 300),
                notification_count=3,
            ),
        ),
        webpush=messaging.WebpushConfig(
            headers={"TTL": "5"}, notification=messaging.WebpushNotification(title="w", actions=[])
        ),
        apns=messaging.APNSConfig(
            headers={"apns-priority": "5"},
            payload=messaging.APNSPayload(messaging.Aps(alert=messaging.ApsAlert(title="x"), badge=1)),
        ),
        fcm_options=messaging.FCMOptions("label"),
    )


async def test_firebase_admin_over_http2(
    tmp_path: Path, firebase: Callable[[Simulator, Credentials, str], Any]
) -> None:
    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)

        app = firebase(simulator, credentials, simulator.fcm_url)
        tokens = ["good1", fcm_token("UNREGISTERED", "1"), fcm_token("QUOTA_EXCEEDED", "1"), "good2", "b d"]

        def send() -> Any:  # in a thread: it fetches its access token by a call that blocks the loop
            async def inner() -> Any:
                batch = await messaging.send_each_async([message(token) for token in tokens], app=app)
                await messaging._get_messaging_service(app)._async_client.aclose()
                return batch

            return asyncio.run(inner())

        batch = await asyncio.to_thread(send)
        outcomes = [type(item.exception).__name__ if item.exception else "sent" for item in batch.responses]
        assert outcomes == ["sent", "UnregisteredError", "QuotaExceededError", "sent", "InvalidArgumentError"]
        assert batch.responses[0].message_id.startswith("projects/example-shop/messages/0:")
        assert {item.fields[":scheme"] for item in simulator.record.fcm.requests()} == {"https"}


async def test_firebase_admin_over_http1(
    tmp_path: Path, firebase: Callable[[Simulator, Credentials, str], Any]
) -> None:
    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        app = firebase(simulator, credentials, simulator.control_url)
        name = await asyncio.to_thread(messaging.send, message("good"), app=app)
        assert name.startswith("projects/example-shop/messages/0:")
        name = await asyncio.to_thread(messaging.send, message("good"), True, app)
        assert name.endswith("fake_message_id")
        for scenario, error in (
            ("UNREGISTERED", messaging.UnregisteredError),
            ("SENDER_ID_MISMATCH", messaging.SenderIdMismatchError),
            ("THIRD_PARTY_AUTH_ERROR", messaging.ThirdPartyAuthError),
        ):
            with pytest.raises(error):
                await asyncio.to_thread(messaging.send, message(fcm_token(scenario, "1")), app=app)
        assert simulator.record.fcm.accepted == 1


# --- httpx and pyreqwest ----------------------------------------------------------------------------------


async def test_httpx(tmp_path: Path) -> None:
    async with Simulator(SimulatorConfig(environment="sandbox"), keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        headers = apns_headers(credentials)
        async with httpx.AsyncClient(http2=True, verify=trust(credentials)) as client:

            async def send(token: str, body: bytes = b'{"aps":{}}') -> httpx.Response:
                return await client.post(f"{simulator.apns_url}/3/device/{token}", content=body, headers=headers)

            answer = await send(TOKEN)
            assert answer.headers["apns-id"] == headers["apns-id"]
            assert str(uuid.UUID(answer.headers["apns-unique-id"])) == answer.headers["apns-unique-id"]
            assert (await send(TOKEN, b"x" * 300_000)).json() == {"reason": "PayloadTooLarge"}
            answer = await send(apns_token("ServiceUnavailable.1,retry-after-7", "1"))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
            answer = await send(apns_token("status-418", "1"))
            assert (answer.status_code, answer.json()) == (418, {"reason": "SomethingNew"})
            assert (await send(apns_token("BadTopic,empty", "1"))).content == b""
            assert (await send(b"sim:Oops:1".hex())).json()["detail"].startswith("unknown action 'Oops'")
            with pytest.raises(httpx.RemoteProtocolError, match="StreamReset"):
                await send(apns_token("reset", "1"))
            assert (await send(apns_token("slow-30", "1"))).elapsed.total_seconds() >= 0.03 - EARLY
            answers = await asyncio.gather(*(send(f"{number:064x}") for number in range(200)))
            assert {answer.status_code for answer in answers} == {200}
            with pytest.raises(httpx.RemoteProtocolError):
                await send(apns_token("drop", "1"))
            with pytest.raises(httpx.RemoteProtocolError):
                await send(apns_token("goaway.1", "1"))
            assert (await send(TOKEN)).status_code == 200, "on a connection of its own"
        assert simulator.record.apns.accepted_of(TOKEN) == 2
        assert simulator.record.apns.duplicates == 1, "they all had one apns-id"


async def test_pyreqwest(tmp_path: Path) -> None:
    client_module = pytest.importorskip("pyreqwest.client", reason="pyreqwest belongs to the `bench` extra")

    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        headers = apns_headers(credentials)
        certificate = credentials.ca_file.read_bytes()
        builder = client_module.ClientBuilder().add_root_certificate_pem(certificate).https_only(True)
        async with builder.http2_prior_knowledge().build() as client:

            async def send(token: str) -> tuple[int, bytes]:
                request = client.post(f"{simulator.apns_url}/3/device/{token}").headers(headers)
                answer = await request.body_bytes(b'{"aps":{}}').build().send()
                return answer.status, bytes(await answer.bytes())

            assert await send(TOKEN) == (200, b"")
            answers = await asyncio.gather(*(send(f"{number:064x}") for number in range(500)))
            assert {status for status, _ in answers} == {200}
            dead = [apns_token("Unregistered,since-5", str(number)) for number in range(3000)]
            body = b'{"reason":"Unregistered","timestamp":5}'
            assert set(await asyncio.gather(*map(send, dead))) == {(410, body)}, "more than a window of bodies"
        assert simulator.record.apns.accepted == 501
        assert simulator.record.apns.traffic.protocol_errors == 0
        assert simulator.record.apns.traffic.connections == 1
