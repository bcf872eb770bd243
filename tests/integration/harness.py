"""The whole service in one event loop, for tests: real store, real sockets, the simulator as the providers.

What is under test are the same `run_*` functions that the processes of `pushsvc up` run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from pushsvc import telemetry
from pushsvc.lab.simulator import Credentials, Simulator, SimulatorConfig, SimulatorHandle, apns_token, fcm_token
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.parts import run_parts
from pushsvc.runtime.store import own_embedded
from pushsvc.settings.schema import Settings

KEY = "test-key-of-the-shop"
PATIENCE = 60.0

CONFIG = """
[server]
port = 0
[store]
data_dir = "{folder}/store"
[metrics]
port = 0
[retry]
base = 0.05
apns_5xx = 0.0
fcm_5xx = 0.0
fcm_429 = 0.0
request_timeout = {request_timeout}
[dispatch]
drain_timeout = 5.0
[apps.shop]
[[apps.shop.keys]]
name = "test"
sha256 = "{sha256}"
scopes = ["push", "devices", "feedback", "admin"]
[apps.shop.apns]
key_file = "{apns_key_file}"
key_id = "{key_id}"
team_id = "{team_id}"
topic = "{topic}"
endpoint = "{apns_url}"
channels_endpoint = "{apns_url}"
ca_file = "{ca_file}"
connections = {connections}
[apps.shop.fcm]
service_account_file = "{service_account_file}"
endpoint = "{fcm_url}"
ca_file = "{ca_file}"
connections = {connections}
"""


class Service:
    """A running service and the simulator behind it."""

    def __init__(self, simulator: Simulator, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.settings = settings
        self.session = session

    async def post(self, document: Any) -> tuple[int, dict[str, Any]]:
        """POST /v1/push; status and body."""
        async with self.session.post("/v1/push", json=document) as answer:
            return answer.status, await answer.json(content_type=None)

    async def push(self, tokens: Sequence[dict[str, str]], **fields: Any) -> str:
        """Post a push that must be accepted; its id."""
        content = fields or {"notification": {"title": "hello"}}
        status, body = await self.post({"to": {"tokens": list(tokens)}, **content})
        assert status == 202, body
        return str(body["id"])

    async def status(self, push: str) -> dict[str, Any]:
        async with self.session.get(f"/v1/push/{push}") as answer:
            assert answer.status == 200
            document: dict[str, Any] = await answer.json()
        counts = document["counts"]
        assert counts["total"] == sum(count for name, count in counts.items() if name != "total"), counts
        return document

    async def until(self, what: str, reached: Callable[[], Any], patience: float = PATIENCE) -> None:
        """Wait for a condition; raises with `what` when it never comes."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            value = reached()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"still not so: {what}")
            await asyncio.sleep(0.02)

    async def done(self, *pushes: str) -> Counter[str]:
        """Wait until these pushes are done; the sum of their counts, without the zeros."""
        total: Counter[str] = Counter()
        for push in pushes:
            document: dict[str, Any] = {}

            async def is_done(push: str = push) -> bool:
                nonlocal document
                document = await self.status(push)
                return bool(document["state"] == "done")

            await self.until(f"push {push} is done", is_done)
            total.update(document["counts"])
        return +total

    async def rows(self, push: str) -> list[dict[str, Any]]:
        async with self.session.get(f"/v1/push/{push}/deliveries", params={"limit": "1000"}) as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
            return items


def apns(scenario: str, *unique: object) -> list[dict[str, str]]:
    """One APNs target for each of `unique`."""
    return [{"platform": "apns", "token": apns_token(scenario, str(each))} for each in unique]


def fcm(scenario: str, *unique: object) -> list[dict[str, str]]:
    """One FCM target for each of `unique`."""
    return [{"platform": "fcm", "token": fcm_token(scenario, str(each))} for each in unique]


def configuration(
    folder: Path,
    simulator: Simulator | SimulatorHandle,
    credentials: Credentials,
    *,
    request_timeout: float,
    connections: int = 2,
) -> str:
    """The configuration of an app whose providers are a simulator."""
    return CONFIG.format(
        folder=folder,
        sha256=hashlib.sha256(KEY.encode()).hexdigest(),
        apns_key_file=credentials.apns_key_file,
        key_id=credentials.key_id,
        team_id=credentials.team_id,
        topic=credentials.topic,
        apns_url=simulator.apns_url,
        ca_file=credentials.ca_file,
        service_account_file=credentials.service_account_file,
        fcm_url=simulator.fcm_url,
        request_timeout=request_timeout,
        connections=connections,
    )


@asynccontextmanager
async def running_service(
    folder: Path,
    *,
    request_timeout: float = 10.0,
    connections: int = 2,
    dispatchers: int = 1,
    together: bool = False,
    extra: str | Callable[[Simulator], str] = "",
    **simulator_flags: Any,
) -> AsyncIterator[Service]:
    """Start it all, the API and a dispatcher as one part where they run `together`; stop it in the order in which
    pushes travel, and fail when a part ended by a fault."""
    telemetry.configure_logging("warning", json=False)
    async with Simulator(SimulatorConfig(folder=str(folder / "simulator"), **simulator_flags)) as simulator:
        credentials = simulator.write_credentials(folder / "simulator")
        file = folder / "pushsvc.toml"
        text = configuration(folder, simulator, credentials, request_timeout=request_timeout, connections=connections)
        file.write_text(text + (extra if isinstance(extra, str) else extra(simulator)))
        settings = load_settings(file, {})
        async with own_embedded(settings):
            stops: list[asyncio.Event] = []
            parts: list[asyncio.Task[None]] = []
            listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            first = [("serve", "dispatch")] if together else [("serve",), *[("dispatch",)] * dispatchers]
            for names in (*first, ("feedback",)):
                stop = asyncio.Event()
                heard = listening.set_result if names == first[0] else lambda where: None
                stops.append(stop)
                parts.append(asyncio.create_task(run_parts(names, settings, stop, listening=heard)))
            started: list[asyncio.Future[Any]] = [listening, *parts]
            await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done():
                    part.result()
            url = listening.result().partition(",")[0]
            async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as session:
                try:
                    yield Service(simulator, settings, session)
                finally:
                    for stop, part in zip(stops, parts, strict=True):
                        stop.set()
                        await part
