"""The simulator's commands, on real sockets: by its methods, and over the control API."""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

from pushsvc.errors import ConfigError
from pushsvc.lab.simulator import Credentials, Keys, Simulator, SimulatorConfig, apns_token, fcm_token
from pushsvc.lab.simulator.oauth import GRANT_TYPE

from ..timers import EARLY

TOKEN = "ab" * 32


@functools.cache
def keys() -> Keys:
    return Keys()


class Client:
    """One connection of the `h2` library, which follows commands and shows everything it receives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, credentials: Credentials) -> None:
        self._reader, self._writer = reader, writer
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        claims = {"iss": credentials.team_id, "iat": int(time.time())}
        token = jwt.encode(claims, credentials.apns_key_file.read_text(), "ES256", {"kid": credentials.key_id})
        self._headers = [
            ("authorization", f"bearer {token}"),
            ("apns-topic", credentials.topic),
        ]
        self.statuses: dict[int, int] = {}
        self.resets: dict[int, int] = {}
        self.goaways: list[tuple[int, bytes]] = []
        self.limits: list[int] = []
        self.ended: set[int] = set()
        self._rest = b""

    def post(self, token: str = TOKEN, body: bytes = b'{"aps":{}}') -> int:
        stream = self._h2.get_next_available_stream_id()
        path = [(":method", "POST"), (":scheme", "https"), (":authority", "here"), (":path", f"/3/device/{token}")]
        self._h2.send_headers(stream, [*path, *self._headers, ("apns-id", str(uuid.uuid4()))])
        self._h2.send_data(stream, body, end_stream=True)
        return stream

    @property
    def window(self) -> int:
        """Bytes that the simulator still allows us to send."""
        return self._h2.outbound_flow_control_window

    def reset(self, stream: int) -> None:
        self._h2.reset_stream(stream)

    async def until(self, done: Callable[[], bool]) -> None:
        """Send what is to be sent and read until `done`. Raises when the connection ends before."""
        while True:
            self._writer.write(self._h2.data_to_send())
            await self._writer.drain()
            if done():
                return
            data = await self._reader.read(65_536)
            if not data:
                raise ConnectionError("closed by the simulator")
            for event in self._h2.receive_data(self._take_goaways(data)):
                self._note(event)

    async def answers(self, *streams: int) -> list[int]:
        """The statuses of these requests; 0 for a reset."""
        await self.until(lambda: self.ended >= set(streams))
        return [self.statuses.get(stream, 0) for stream in streams]

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            assert event.stream_id is not None
            assert event.headers is not None
            self.statuses[event.stream_id] = int(event.headers[0][1])
        elif isinstance(event, StreamEnded):
            assert event.stream_id is not None
            self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            assert event.stream_id is not None
            self.resets[event.stream_id] = int(event.error_code or 0)
            self.ended.add(event.stream_id)
        elif isinstance(event, RemoteSettingsChanged):
            change = event.changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
            if change is not None:
                self.limits.append(change.new_value)

    def _take_goaways(self, data: bytes) -> bytes:
        """All frames but GOAWAY, after which h2 would read no answer any more."""
        data, kept = self._rest + data, b""
        while len(data) >= 9 and len(data) >= (size := 9 + int.from_bytes(data[:3], "big")):
            if data[3] == 7:
                self.goaways.append((int.from_bytes(data[9:13], "big"), data[17:size]))
            else:
                kept += data[:size]
            data = data[size:]
        self._rest = data
        return kept


@asynccontextmanager
async def simulated(
    folder: Path, config: SimulatorConfig | None = None, *, warm: bool = True, clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Simulator, Client]]:
    """A simulator, and a client whose connection has had its first push, unless it is not to be warm."""
    async with Simulator(config, keys=keys(), clock=clock) as simulator:
        credentials = simulator.write_credentials(folder)
        context = ssl.create_default_context(cafile=str(credentials.ca_file))
        context.set_alpn_protocols(["h2"])
        parts = urlsplit(simulator.apns_url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        client = Client(reader, writer, credentials)
        try:
            if warm:
                assert await client.answers(client.post()) == [200]
                await client.until(lambda: client.limits[-1:] != [1])
            yield simulator, client
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it; the test's own deadline is the bound."""
    while not condition():  # the simulator has no event to wait on
        await asyncio.sleep(0.005)


async def test_stream_limit_1_then_1000_then_1_and_back(tmp_path: Path) -> None:
    async with simulated(tmp_path, SimulatorConfig(throttle_rejections=True), warm=False) as (simulator, client):
        assert await client.answers(client.post()) == [200]
        await client.until(lambda: client.limits == [1, 1000])
        assert await client.answers(client.post(apns_token("Unregistered", "1"))) == [410]
        assert client.limits == [1, 1000], "a 410 is no error to APNs"
        assert await client.answers(client.post(apns_token("BadDeviceToken", "1"))) == [400]
        await client.until(lambda: client.limits == [1, 1000, 1])
        assert await client.answers(client.post()) == [200]
        await client.until(lambda: client.limits == [1, 1000, 1, 1000])
        simulator.control("streams", limit=7, platform="apns")
        await client.until(lambda: client.limits[-1] == 7)
        assert simulator.record.apns.traffic.refused_streams == 0


async def test_streams_open_with_the_first_valid_provider_token_whatever_is_wrong_with_the_push(tmp_path: Path) -> None:
    async with simulated(tmp_path, SimulatorConfig(), warm=False) as (simulator, client):
        simulator.break_credentials("apns")
        assert await client.answers(client.post()) == [403]
        simulator.restore_credentials("apns")
        assert await client.answers(client.post(apns_token("InvalidProviderToken", "1"))) == [403]
        assert client.limits == [1], "nobody has proven who it is"
        assert await client.answers(client.post(apns_token("BadPriority", "1"))) == [400]
        await client.until(lambda: client.limits == [1, 1000])


async def test_no_throttle_where_it_is_switched_off(tmp_path: Path) -> None:
    config = SimulatorConfig(one_stream_at_start=False, apns_streams=50)
    async with simulated(tmp_path, config) as (_, client):
        await client.answers(client.post(apns_token("BadDeviceToken", "1")))
        assert client.limits == [50]


async def test_goaway_answers_the_requests_it_keeps_and_no_other(tmp_path: Path) -> None:
    async with simulated(tmp_path, SimulatorConfig(latency=0.1)) as (simulator, client):
        streams = [client.post() for _ in range(10)]
        await client.until(lambda: True)
        await until(lambda: simulator.state()["apns"]["waiting"] == 10)
        assert simulator.control("goaway", keep=4) == 1
        assert await client.answers(*streams[:4]) == [200] * 4
        assert client.goaways == [(streams[3], b'{"reason":"Shutdown"}')]
        with pytest.raises(ConnectionError):
            await client.until(lambda: False)
        assert client.ended.isdisjoint(streams[4:])


async def test_a_graceful_goaway_answers_all(tmp_path: Path) -> None:
    async with simulated(tmp_path, SimulatorConfig(latency=0.1)) as (simulator, client):
        streams = [client.post() for _ in range(10)]
        await client.until(lambda: True)
        await until(lambda: simulator.state()["apns"]["waiting"] == 10)
        simulator.control("goaway", graceful=True)
        assert await client.answers(*streams) == [200] * 10
        assert [last for last, _ in client.goaways] == [2**31 - 1, streams[-1]]


async def test_stall_and_release_reset_and_drop(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (simulator, client):
        simulator.control("stall")
        first, second, given_up = (client.post(token) for token in (TOKEN, apns_token("BadTopic", "1"), TOKEN))
        await client.until(lambda: True)
        await until(lambda: simulator.state()["apns"]["waiting"] == 3)
        client.reset(given_up)
        await client.until(lambda: True)
        await until(lambda: simulator.state()["apns"]["waiting"] == 2)
        simulator.control("stall", on=False)
        assert await client.answers(first, second) == [200, 400]
        assert simulator.record.apns.totals == {"0 held": 3, "200": 2, "400 BadTopic": 1}
        stuck = client.post(apns_token("stall", "1"))
        await client.until(lambda: True)
        await until(lambda: simulator.state()["apns"]["waiting"] == 1)
        assert simulator.control("reset", code=7, platform="apns") == 1
        assert await client.answers(stuck) == [0]
        assert client.resets == {stuck: 7}
        assert await client.answers(client.post()) == [200], "the connection is as good as before"
        assert simulator.control("drop") == 1
        with pytest.raises(ConnectionError):
            await client.answers(client.post())


async def test_trouble_for_everybody(tmp_path: Path) -> None:
    now = [time.time()]
    async with simulated(tmp_path, clock=lambda: now[0]) as (simulator, client):

        async def status() -> int:
            [status] = await client.answers(client.post())
            return status

        simulator.control("unavailable", seconds=5)
        assert await status() == 503
        now[0] += 6
        assert await status() == 200
        simulator.control("unavailable")
        now[0] += 60
        assert await status() == 503
        simulator.control("unavailable", on=False)
        simulator.break_credentials("apns")
        assert await status() == 403
        simulator.restore_credentials("apns")
        assert await status() == 200
        simulator.control("throttle", rate=10, burst=2)
        assert [await status() for _ in range(3)] == [200, 200, 429]
        now[0] += 0.15
        assert [await status() for _ in range(2)] == [200, 429]
        simulator.control("calm")
        assert await status() == 200
        simulator.control("latency", seconds=0.05)
        start = time.monotonic()
        assert await status() == 200
        assert time.monotonic() - start >= 0.05 - EARLY
        totals = simulator.record.apns.totals
        assert totals["503 ServiceUnavailable"] == 2
        assert totals["403 InvalidProviderToken"] == 1
        assert totals["429 TooManyRequests"] == 2


async def test_credit_held_and_returned(tmp_path: Path) -> None:
    config = SimulatorConfig(connection_window=65_535)
    async with simulated(tmp_path, config) as (simulator, client):
        simulator.control("credit")
        body = b'{"aps":{}}'.ljust(4000)
        assert set(await client.answers(*(client.post(body=body) for _ in range(16)))) == {200}
        assert client.window == 65_535 - 10 - 16 * 4000
        simulator.control("credit", hold=False)
        await client.until(lambda: client.window == 65_535)
        assert await client.answers(client.post()) == [200]


# --- the control API --------------------------------------------------------------------------------


async def access_token(client: httpx.AsyncClient, simulator: Simulator, credentials: Credentials) -> httpx.Response:
    account = msgspec.json.decode(credentials.service_account_file.read_bytes())
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "aud": account["token_uri"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "iat": now,
        "exp": now + 3600,
    }
    form = {"grant_type": GRANT_TYPE, "assertion": jwt.encode(claims, account["private_key"], "RS256")}
    return await client.post(account["token_uri"], data=form)


async def test_the_control_api(tmp_path: Path) -> None:
    async with Simulator(keys=keys()) as simulator:
        credentials = simulator.write_credentials(tmp_path)
        context = ssl.create_default_context(cafile=str(credentials.ca_file))
        async with httpx.AsyncClient(http2=True, verify=context) as client:
            answer = await access_token(client, simulator, credentials)
            assert answer.json()["expires_in"] == 3599
            headers = {"authorization": f"Bearer {answer.json()['access_token']}"}

            async def send(token: str = "t1", url: str = simulator.fcm_url) -> httpx.Response:
                url = f"{url}/v1/projects/{credentials.project_id}/messages:send"
                return await client.post(url, json={"message": {"token": token}}, headers=headers)

            async def control(command: str, **fields: Any) -> int:
                answer = await client.post(f"{simulator.control_url}/control/{command}", json=fields)
                assert answer.status_code == 200, answer.text
                return int(answer.json()["touched"])

            answer = await send()
            assert answer.json()["name"].startswith("projects/example-shop/messages/0:")
            assert answer.http_version == "HTTP/2"
            assert (await send(url=simulator.control_url)).http_version == "HTTP/1.1"

            await control("credentials", platform="fcm", token_endpoint=True)
            assert (await send()).json()["error"]["status"] == "UNAUTHENTICATED"
            refused = await access_token(client, simulator, credentials)
            assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
            await control("credentials", refuse=False)
            assert (await send()).status_code == 200

            await control("revoke")
            assert (await send()).status_code == 401
            answer = await access_token(client, simulator, credentials)
            headers["authorization"] = f"Bearer {answer.json()['access_token']}"
            assert (await send()).status_code == 200

            await control("throttle", rate=0.001, retry_after=42, platform="fcm")
            assert (await send()).status_code == 200
            answer = await send()
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "42")
            await control("calm")
            answer = await send(fcm_token("UNAVAILABLE,retry-at-30", "1"))
            assert answer.headers["retry-after"].endswith("GMT")
            assert await control("drop", platform="fcm") == 1

            answer = await client.post(f"{simulator.control_url}/control/throttle", json={"on": True})
            assert answer.json()["error"].endswith(
                '; the fields of throttle are {"rate": .., "burst": 1.0, "retry_after": null}'
            )
            wrong = {"nonsense": {}, "stall": {"onn": True}, "streams": {}, "latency": {"seconds": "x"}, "throttle": {}}
            for command, fields in wrong.items():
                answer = await client.post(f"{simulator.control_url}/control/{command}", json=fields)
                assert answer.status_code == 400
                assert answer.json()["error"]
            answer = await client.post(f"{simulator.control_url}/control/resume")
            known = "goaway, reset, stall, unavailable, throttle, streams, drop, credentials, revoke, latency, credit"
            assert answer.json() == {"error": f"unknown command 'resume'; known are {known}, calm"}

            state = (await client.get(f"{simulator.control_url}/control")).json()
            assert state["fcm"]["stalled"] is False
            assert state["commands"]["latency"] == '{"seconds": ..}'
            assert state["process"]["cpu_seconds"] > 0

            record = (await client.get(f"{simulator.control_url}/record")).json()
            assert record["fcm"]["totals"]["200"] == simulator.record.fcm.accepted == 5
            assert record["duplicates"] == 1, "one body, accepted five times"
            found = (await client.get(f"{simulator.control_url}/record/fcm?token=t1&limit=2")).json()
            assert (found["accepted"], len(found["requests"])) == (5, 2)
            assert found["requests"][0]["body"] == '{"message":{"token":"t1"}}'
            assert (await client.get(f"{simulator.control_url}/record/fcm?limit=x")).status_code == 400
            assert (await client.get(f"{simulator.control_url}/record/gcm")).status_code == 404
            assert (await client.delete(f"{simulator.control_url}/record")).status_code == 204
            assert simulator.record.fcm.total == 0


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async with Simulator(keys=keys()) as simulator:
        port = urlsplit(simulator.apns_url).port or 0
        for name in ("apns_port", "fcm_port", "control_port"):
            config = msgspec.structs.replace(SimulatorConfig(), **{name: port})
            with pytest.raises(ConfigError, match=f"simulator.{name}: 127.0.0.1:{port} is in use"):
                await Simulator(config, keys=keys()).__aenter__()
