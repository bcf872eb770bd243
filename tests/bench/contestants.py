"""Who takes part in `tests/bench/delivery.py`: each sends some deliveries and says how fast it was.

python -m tests.bench.contestants TASK    (JSON; in a process of its own)
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from pushsvc import telemetry
from pushsvc.lab.simulator import Address, apns_token, fcm_token
from pushsvc.model.push import Content, Push, Route, Target
from pushsvc.net.http2.transport import HTTPS, POST, Pool, authority, field, path
from pushsvc.providers import REGISTRY
from pushsvc.runtime.parts import quiet_gc
from pushsvc.settings.schema import LimitsSettings
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.stages.dispatch.limits import RouteLimits
from pushsvc.store import open_store

PAYLOAD = b'{"aps":{"alert":{"title":"Order 7 shipped","body":"Arrives Friday"},"sound":"default"}}'
MESSAGE = b'{"notification":{"title":"Order 7 shipped","body":"Arrives Friday"},"android":{"priority":"HIGH"}}'


class Run:
    """Counts one contestant's time, from the first delivery to the last answer."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._used = self._cpu()
        self._started = time.perf_counter()

    @staticmethod
    def _cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def result(self) -> dict[str, float]:
        seconds = time.perf_counter() - self._started
        return {"rate": self._count / seconds, "cpu_us": (self._cpu() - self._used) / self._count * 1e6}


async def bare(platform: str, address: Address, count: int) -> dict[str, float]:
    """Our transport with ready-made requests: no queue, no rendering, no judgement."""
    credentials = address.credentials
    context = ssl.create_default_context(cafile=str(credentials.ca_file))
    url = address.apns_url if platform == "apns" else address.fcm_url
    if platform == "apns":
        from aioapns.connection import JWTAuthorizationHeaderProvider

        key = Path(credentials.apns_key_file).read_text()
        bearer = JWTAuthorizationHeaderProvider(key, credentials.key_id, credentials.team_id).get_header()  # type: ignore[no-untyped-call]  # aioapns ships no types
        common = field("authorization", bearer) + field("apns-topic", credentials.topic)
        common += field("apns-push-type", "alert") + field("apns-priority", "10")
        blocks = [
            POST + HTTPS + authority("simulator") + path(f"/3/device/{apns_token('ok', str(n))}") + common
            for n in range(100)
        ]
        bodies = [PAYLOAD] * 100
    else:
        token = await asyncio.to_thread(_access_token, credentials.service_account_file, str(credentials.ca_file))
        place = path(f"/v1/projects/{credentials.project_id}/messages:send")
        blocks = [POST + HTTPS + authority("simulator") + place + field("authorization", f"Bearer {token}")] * 100
        bodies = [
            b'{"message":{"token":"' + fcm_token("ok", str(n)).encode() + b'",' + MESSAGE[1:] + b"}" for n in range(100)
        ]
    async with Pool(url, ssl=context) as pool:
        room = asyncio.Event()
        pool.on_room(room.set)
        done = asyncio.Event()
        left = 0
        bad = 0

        def answered(_: Any, answer: Any) -> None:
            nonlocal left, bad
            left -= 1
            bad += getattr(answer, "status", 0) != 200
            if not left:
                done.set()

        async def send(total: int) -> None:
            nonlocal left
            left, sent = total, 0
            done.clear()
            while sent < total:
                burst = min(pool.room, total - sent, 256)
                for _ in range(burst):
                    pool.submit(blocks[sent % 100], bodies[sent % 100], None, answered)
                    sent += 1
                if sent < total:
                    room.clear()
                    if pool.room <= 0:
                        await room.wait()
                    else:
                        await asyncio.sleep(0)
            await done.wait()

        await send(2000)
        run = Run(count)
        await send(count)
        result = run.result()
    assert not bad, f"{bad} answers were not 200"
    return result


def _access_token(service_account_file: Path, ca_file: str) -> str:
    import requests
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials

    credentials = Credentials.from_service_account_file(  # type: ignore[no-untyped-call]  # google-auth's is untyped
        str(service_account_file), scopes=["https://www.googleapis.com/auth/firebase.messaging"]
    )
    session = requests.Session()
    session.verify = ca_file
    session.trust_env = False  # REQUESTS_CA_BUNDLE would go before
    credentials.refresh(Request(session=session))
    return str(credentials.token)


async def peer_apns(address: Address, count: int) -> dict[str, float]:
    """aioapns, its own client and pool, as many calls at once as do it best."""
    from urllib.parse import urlsplit

    from aioapns import APNs, NotificationRequest
    from aioapns.connection import APNsProductionClientProtocol

    credentials = address.credentials
    context = ssl.create_default_context(cafile=str(credentials.ca_file))
    context.set_alpn_protocols(["h2"])
    client = APNs(
        key=Path(credentials.apns_key_file).read_text(),
        key_id=credentials.key_id,
        team_id=credentials.team_id,
        topic=credentials.topic,
        ssl_context=context,
        max_connections=2,
    )
    parts = urlsplit(address.apns_url)
    client.pool.protocol_class = type(
        "Local", (APNsProductionClientProtocol,), {"APNS_SERVER": parts.hostname, "APNS_PORT": parts.port}
    )
    message = json.loads(PAYLOAD)
    tokens = [apns_token("ok", str(n)) for n in range(100)]

    async def send(number: int) -> None:
        result = await client.send_notification(NotificationRequest(tokens[number % 100], message))
        assert result.is_successful, result.description

    await _many(send, 100, 20)
    run = Run(count)
    await _many(send, count, 200)
    result = run.result()
    client.pool.close()
    return result


async def peer_fcm(address: Address, count: int) -> dict[str, float]:
    """firebase-admin's `send_each_async`, in its largest batches."""
    import firebase_admin
    from firebase_admin import credentials, messaging

    os.environ["SSL_CERT_FILE"] = os.environ["REQUESTS_CA_BUNDLE"] = str(address.credentials.ca_file)
    project = address.credentials.project_id
    app = firebase_admin.initialize_app(
        credentials.Certificate(str(address.credentials.service_account_file)), {"projectId": project}
    )
    service = messaging._get_messaging_service(app)
    service._fcm_url = f"{address.fcm_url}/v1/projects/{project}/messages:send"
    notification = messaging.Notification(title="Order 7 shipped", body="Arrives Friday")

    async def batch(size: int) -> None:
        answers = await messaging.send_each_async(
            [messaging.Message(fid=fcm_token("ok", str(n)), notification=notification) for n in range(size)]
        )
        assert answers.failure_count == 0, answers.responses[0].exception

    await batch(100)
    run = Run(count)
    for _ in range(count // 500):
        await batch(500)
    return run.result()


async def _many(send: Callable[[int], Awaitable[None]], count: int, at_once: int) -> None:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await send(number)

    await asyncio.gather(*(worker() for _ in range(at_once)))


async def ours(
    platform: str, address: Address, count: int, *, store_url: str, per_push: int, limited: bool, share: float
) -> dict[str, float]:
    """The whole path: entries read, sent, answers judged, outcomes recorded and entries acknowledged.

    `limited`: with the default limits, so that every token is counted; each is pushed to once. This `share` of pushes
    is part of a trace.
    """
    quiet_gc()
    route = Route("shop", platform)
    token = apns_token if platform == "apns" else fcm_token
    message = REGISTRY[platform].renderer.render(
        msgspec.convert({"notification": {"title": "Order 7 shipped", "body": "Arrives Friday"}}, Content),
        push_id="bench",
        starts_at=int(time.time() * 1000),
    )
    async with open_store(store_url) as store:
        now = int(time.time() * 1000)
        pushes = [
            Push(
                id=f"{platform}-{per_push}-{number}-{now}",
                app="shop",
                lane="bulk",
                created_at=now,
                expires_at=now + 3_600_000,
                messages={platform: message},
                targets={platform: tuple(Target(n, token("ok", f"{number}-{n}")) for n in range(per_push))},
                trace=os.urandom(telemetry.traces.CARRIED) if number * share % 1 < share else b"",
            )
            for number in range(count // per_push)
        ]
        for start in range(0, len(pushes), 1000):
            await asyncio.gather(*(store.pushes.accept(push) for push in pushes[start : start + 1000]))
        config = _provider_config(platform, address)
        async with REGISTRY[platform].open_provider(route, config, request_timeout=10.0) as provider:
            while not provider.room:
                await asyncio.sleep(0.01)
            limits = {route: RouteLimits(per_token=LimitsSettings().per_token)} if limited else {}
            dispatcher = Dispatcher(
                store.queue,
                [provider],
                DispatchConfig(),
                hash_token=store.token_hash,
                limiter=store.limiter,
                limits=limits,
            )
            stop = asyncio.Event()
            run = Run(count)
            task = asyncio.create_task(dispatcher.run(stop))
            while sum((await store.gauges({"shop": (platform,)})).pending.values()):
                assert not task.done(), task.result()
                await asyncio.sleep(0.02)
            result = run.result()
            stop.set()
            await task
        statuses = [await store.pushes.status("shop", push.id) for push in pushes[:: max(1, len(pushes) // 20)]]
        assert all(status is not None and status.counts.sent == per_push for status in statuses), statuses[0]
    return result


def _provider_config(platform: str, address: Address) -> Any:
    credentials = address.credentials
    if platform == "apns":
        return REGISTRY["apns"].config(
            key_file=str(credentials.apns_key_file),
            key_id=credentials.key_id,
            team_id=credentials.team_id,
            topic=credentials.topic,
            endpoint=address.apns_url,
            ca_file=str(credentials.ca_file),
        )
    return REGISTRY["fcm"].config(
        service_account_file=str(credentials.service_account_file),
        endpoint=address.fcm_url,
        ca_file=str(credentials.ca_file),
    )


def contest(task: dict[str, Any]) -> dict[str, float]:
    """Run one contestant, in this process."""
    telemetry.configure_logging("error", json=False)
    address = Address.from_json(json.dumps(task["address"]).encode())
    platform, count = task["platform"], task["count"]
    match task["name"]:
        case "bare":
            work = bare(platform, address, count)
        case "peer":
            work = peer_apns(address, count) if platform == "apns" else peer_fcm(address, count)
        case _:
            work = ours(
                platform,
                address,
                count,
                store_url=task["store_url"],
                per_push=task["per_push"],
                limited=task.get("limited", True),
                share=task.get("share", 0.0),
            )
    return uvloop.run(work)


if __name__ == "__main__":
    print(json.dumps(contest(json.loads(sys.argv[1]))))
