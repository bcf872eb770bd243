"""Redis goes, is silent, is full or no primary any more: every call says 503 and when to come again; then all goes on.

The whole service in one loop, over a Redis and a Valkey of its own and over the embedded one.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec import structs

from pushsvc.model.push import LANES
from pushsvc.runtime import parts, plans, store as runtime_store
from pushsvc.runtime.state import conditions
from pushsvc.runtime.store import store_config

from .harness import Service, apns, fcm, running_service
from .servers import KINDS, Kind, Server, ask, running_server, suspended

OPTIONS = ("--appendonly", "yes", "--appendfsync", "always")
"""Not `everysec`: a server that is killed while its disk is busy has not written what it has answered for."""
NOBODY = "019ad8f0-0000-7000-8000-000000000000"


class Place:
    """A server that can be killed and started again with its data."""

    def __init__(self, kind: Kind, folder: Path, stack: ExitStack) -> None:
        self._kind = kind
        self._folder = folder
        self._stack = stack
        self.server = self._start()

    def _start(self) -> Server:
        return self._stack.enter_context(running_server(self._kind, folder=self._folder, options=OPTIONS))

    def start_again(self) -> None:
        self.server = self._start()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with TemporaryDirectory(prefix="ps-") as folder, ExitStack() as stack:
        yield Place(request.param, Path(folder), stack)


def opened(folder: Path, url: str = "") -> AbstractAsyncContextManager[Service]:
    extra = f'[redis]\nurl = "{url}"\n' if url else '[queue]\ndurability = "fsync"\n'
    return running_service(folder, extra=extra)


def document(*tokens: object) -> dict[str, Any]:
    return {"to": {"tokens": apns("ok", *tokens)}, "notification": {"title": "hello"}}


Headers = dict[str, str]
FROM_REDIS = {
    *(f'pushsvc_{name}{{lane="{lane}"}}' for name in ("queue_pending", "oldest_pending_age_seconds") for lane in LANES),
    *(f'pushsvc_workers{{part="{part}"}}' for part in ("serve", "dispatch", "feedback", "jobs")),
    *(f'pushsvc_{name}{{app="shop"}}' for name in ("dead_letters", "scheduled", "receipts_waiting")),
    *(f'pushsvc_pruning_frozen{{app="shop",platform="{platform}"}}' for platform in ("apns", "fcm")),
    *(
        f"pushsvc_{name}"
        for name in (
            "queue_counted",
            "retry_pending",
            "live_waiting",
            "cleanup_last_end_timestamp_seconds",
            "redis_memory_ratio",
        )
    ),
}
REDIS_CONDITION = 'pushsvc_conditions{app="",kind="redis",severity="critical"}'


async def call(service: Service, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Headers]:
    async with service.session.request(method, path, json=body, headers=headers) as answer:
        await answer.read()
        return answer.status, dict(answer.headers)


async def gauges(service: Service) -> dict[str, float]:
    """The samples of /metrics, by name and labels."""
    async with service.session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    samples = (line.rpartition(" ") for line in lines)
    return {name: float(value) for name, _, value in samples if name.startswith("pushsvc_")}


async def refuses_everything(service: Service) -> None:
    """Each call that needs Redis, at once."""
    calls: list[tuple[str, str, Any]] = [
        ("POST", "/v1/push", document("away")),
        ("POST", "/v1/push/batch", [document("away"), document("away")]),
        ("GET", f"/v1/push/{NOBODY}", None),
        ("GET", f"/v1/push/{NOBODY}/deliveries", None),
        ("DELETE", f"/v1/push/{NOBODY}", None),
        ("GET", "/v1/feedback", None),
        ("GET", "/v1/failed", None),
        ("POST", "/v1/failed/replay", {}),
        ("GET", "/readyz", None),
    ]
    answers = await asyncio.gather(
        *(call(service, *each) for each in calls),
        call(service, "POST", "/v1/push", document("away"), **{"Idempotency-Key": "away", "Prefer": "wait=5"}),
    )
    for (method, path, _), (status, headers) in zip([*calls, ("POST", "under a key", None)], answers, strict=True):
        assert (status, headers["Content-Type"]) == (503, "application/problem+json"), (method, path)
        assert int(headers["Retry-After"]) >= 1, (method, path)
    for path in ("/healthz", "/metrics", "/openapi.json"):
        assert (await call(service, "GET", path))[0] == 200, path
    shown = await gauges(service)
    assert shown["pushsvc_redis_up"] == 0
    stale = {name for name, value in shown.items() if not math.isnan(value)} & FROM_REDIS
    assert not stale, "shown as if they were current"
    conditions = {name: value for name, value in shown.items() if name.startswith("pushsvc_conditions{")}
    assert conditions == {REDIS_CONDITION: 1}, "the one condition that is known without Redis"


async def goes_on(service: Service, *before: str) -> None:
    """What was accepted before is sent, and so is what comes now; what was refused was not taken."""

    async def ready() -> bool:
        return (await call(service, "GET", "/readyz"))[0] == 200

    await service.until("it is ready again", ready)
    shown = await gauges(service)
    assert (shown["pushsvc_redis_up"], shown['pushsvc_workers{part="serve"}']) == (1, 1)
    assert shown[REDIS_CONDITION] == 0
    assert {name for name, value in shown.items() if math.isnan(value)} <= {"pushsvc_redis_memory_ratio"}
    after = await service.push([*apns("ok", "after"), *apns("Unregistered", "dead"), *fcm("ok", "after")])
    assert await service.done(after) == {"total": 3, "sent": 2, "invalid": 1}
    for push in before:
        await service.done(push)
    status, headers = await call(service, "POST", "/v1/push", document("again"), **{"Idempotency-Key": "away"})
    assert (status, "Idempotent-Replay" in headers) == (202, False)

    async def reported() -> bool:
        async with service.session.get("/v1/feedback") as answer:
            return bool((await answer.json())["items"])

    await service.until("feedback has gone on too", reported)
    record = service.simulator.record.apns
    (away,) = apns("ok", "away")
    assert (record.duplicates, record.requests_of(away["token"])) == (0, 0)


async def test_a_server_that_dies_and_is_started_again(tmp_path: Path, place: Place) -> None:
    async with opened(tmp_path, place.server.url) as service:
        service.simulator.break_credentials("apns")
        waiting = await service.push(apns("ok", *range(300)))
        place.server.kill()
        await refuses_everything(service)
        service.simulator.restore_credentials("apns")
        place.start_again()
        await goes_on(service, waiting)
        assert (await service.status(waiting))["counts"]["sent"] == 300


async def test_a_server_that_is_silent(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    config = store_config
    monkeypatch.setattr(runtime_store, "store_config", lambda settings: structs.replace(config(settings), timeout=0.5))
    async with opened(tmp_path, place.server.url) as service:
        waiting = await service.push(apns("ok", 1))
        await service.done(waiting)
        with suspended(place.server.process.pid):
            await refuses_everything(service)

        async def ready() -> bool:
            return (await call(service, "GET", "/readyz"))[0] == 200

        # What it was asked before it fell silent it does now: nobody can have known, and 503 says so.
        await service.until("it is ready again", ready)
        assert await service.done(await service.push(apns("ok", 2))) == {"total": 1, "sent": 1}


async def test_a_server_that_is_silent_shows_before_a_prober_and_a_scraper_give_up(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "ANSWER", 0.2)
    monkeypatch.setattr(conditions, "ANSWERS", 0.4)
    async with opened(tmp_path, place.server.url) as service:
        assert (await call(service, "GET", "/readyz"))[0] == 200
        pid = place.server.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()

            async def noticed() -> bool:
                return (await call(service, "GET", "/readyz"))[0] == 503

            await service.until("it is not ready", noticed)
            assert (await gauges(service))["pushsvc_redis_up"] == 0
            # Calls of the API wait for as long as an answer may take.
            assert time.monotonic() - began < store_config(service.settings).timeout
        finally:
            os.kill(pid, signal.SIGCONT)

        async def ready() -> bool:
            return (await call(service, "GET", "/readyz"))[0] == 200

        await service.until("it is ready again", ready)


@pytest.mark.parametrize("silent", [False, True])
async def test_a_key_of_the_store_still_shows_what_is_away(
    silent: bool, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where figures and details need a key: for a caller that a proxy has passed on."""
    config = plans.api_config
    monkeypatch.setattr(parts, "api_config", lambda settings: structs.replace(config(settings), key_cache_seconds=0.0))
    async with opened(tmp_path, place.server.url) as service, AsyncExitStack() as stack:
        keys = []
        for name in ("looked-up", "unseen"):
            asked = {"name": name, "scopes": ["admin", "push"]}
            async with service.session.post("/v1/admin/keys", json=asked) as answer:
                keys.append((await answer.json())["key"])
        own, unseen = ({"Authorization": f"Bearer {key}", "X-Forwarded-For": "203.0.113.7"} for key in keys)
        assert (await call(service, "GET", "/metrics", **own))[0] == 200
        if silent:
            stack.enter_context(suspended(place.server.process.pid))
        else:
            place.server.kill()

        async def shown() -> bool:
            began = time.monotonic()
            async with service.session.get("/metrics", headers=own) as answer:
                assert answer.status == 200
                text = await answer.text()
            assert time.monotonic() - began < store_config(service.settings).timeout
            return "\npushsvc_redis_up 0.0\n" in text

        await service.until("the outage is shown", shown)

        async def failing(headers: Headers) -> list[dict[str, str]]:
            async with service.session.get("/readyz", headers=headers) as answer:
                assert answer.status == 503
                found: list[dict[str, str]] = (await answer.json())["errors"]
                return found

        ((named,), (bare,)) = [await failing(headers) for headers in (own, unseen)]
        assert named["path"] == "redis"
        assert "Redis is not available" in named["message"]
        assert bare == {"path": "redis", "message": "is away"}
        assert (await call(service, "GET", "/metrics", **unseen))[0] == 503
        if not silent:  # each waits for as long as an answer may take
            assert (await call(service, "POST", "/v1/push", document("away"), **own))[0] == 503


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "no primary"],
)
async def test_a_server_that_takes_no_writes(
    tmp_path: Path, place: Place, trouble: tuple[str, ...], remedy: tuple[str, ...]
) -> None:
    async with opened(tmp_path, place.server.url) as service:
        before = await service.push(apns("ok", 1))
        await service.done(before)
        place.server.command(*trouble)

        async def seen() -> bool:
            shown = await gauges(service)
            assert shown["pushsvc_redis_up"] == 1, "it answers"
            return (shown["pushsvc_redis_memory_ratio"] > 1) == ("maxmemory" in trouble)

        await service.until("the memory is seen to be full, or nothing is set", seen)
        for path, body in (("/v1/push", document("away")), ("/v1/push/batch", [document("away")])):
            status, headers = await call(service, "POST", path, body)
            assert (status, int(headers["Retry-After"]) >= 1) == (503, True)
        assert (await service.status(before))["counts"]["sent"] == 1
        place.server.command(*remedy)
        await goes_on(service, before)


async def test_the_embedded_server_is_started_again_by_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path) as service:
        service.simulator.break_credentials("apns")
        waiting = await service.push(apns("ok", *range(300)))
        info = ask(service.settings.store.data_dir / "store.sock", "INFO server")
        os.kill(int(info.partition(b"process_id:")[2].split()[0]), signal.SIGKILL)
        await refuses_everything(service)
        service.simulator.restore_credentials("apns")
        await goes_on(service, waiting)
        assert (await service.status(waiting))["counts"]["sent"] == 300
        reported = capsys.readouterr().err.splitlines()
        (died,) = [line for line in reported if "embedded_store_died" in line]
        assert f"store_log={service.settings.store.data_dir / 'store.log'}" in died
        assert "eady to accept connections" in died  # a server that is killed has no last word
        assert any("embedded_store_started_again" in line for line in reported)
