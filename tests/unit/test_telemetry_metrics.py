"""Metrics: their names and labels are fixed, and one scrape shows all processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

import pushsvc
from pushsvc import telemetry
from pushsvc.errors import ConfigError
from pushsvc.telemetry import (
    CONTENT_TYPE,
    MULTIPROCESS_ENV,
    exposition,
    mark_process_dead,
    prepare_multiprocess,
)

NAMES = [
    (telemetry.REQUESTS, "pushsvc_requests", ("app", "route", "status"), Counter),
    (telemetry.ACCEPTED, "pushsvc_accepted", ("app",), Counter),
    (telemetry.DELIVERIES, "pushsvc_deliveries", ("app", "platform", "outcome", "reason"), Counter),
    (telemetry.ATTEMPTS, "pushsvc_attempts", ("app", "platform", "result"), Counter),
    (telemetry.QUEUE_PENDING, "pushsvc_queue_pending", ("lane",), Gauge),
    (telemetry.RETRY_PENDING, "pushsvc_retry_pending", (), Gauge),
    (telemetry.REDIS_UP, "pushsvc_redis_up", (), Gauge),
    (telemetry.REDIS_MEMORY, "pushsvc_redis_memory_ratio", (), Gauge),
    (telemetry.DEAD_LETTERS, "pushsvc_dead_letters", ("app",), Gauge),
    (telemetry.SCHEDULED, "pushsvc_scheduled", ("app",), Gauge),
    (telemetry.REPLAYED, "pushsvc_replayed", ("app",), Counter),
    (telemetry.JOBS, "pushsvc_jobs", ("job", "result"), Counter),
    (telemetry.PROVIDER_SECONDS, "pushsvc_provider_seconds", ("app", "platform"), Histogram),
    (telemetry.DELIVERY_SECONDS, "pushsvc_delivery_seconds", ("app", "platform", "lane"), Histogram),
    (telemetry.ROUTE_HELD, "pushsvc_route_held", ("app", "platform", "reason"), Gauge),
    (telemetry.PRUNED, "pushsvc_pruned", ("app", "platform", "reason"), Counter),
    (telemetry.CREDENTIAL_EXPIRY, "pushsvc_credential_expiry_seconds", ("app", "platform"), Gauge),
]


@pytest.mark.parametrize(("metric", "name", "labels", "kind"), NAMES, ids=[row[1] for row in NAMES])
def test_the_contract(metric: Counter | Gauge | Histogram, name: str, labels: tuple[str, ...], kind: type) -> None:
    (family,) = metric.describe()
    # A counter's samples end in `_total`; its family does not.
    assert family.name == name
    assert metric._labelnames == labels
    assert type(metric) is kind


def test_one_process() -> None:
    telemetry.PRUNED.labels("test-one", "apns", "Unregistered").inc(2)
    text = exposition().decode()
    assert 'pushsvc_pruned_total{app="test-one",platform="apns",reason="Unregistered"} 2.0' in text
    assert CONTENT_TYPE.startswith("text/plain; version=")


def test_ended_deliveries_are_counted_in_one_place_at_the_platform_of_their_route() -> None:
    package = Path(pushsvc.__file__).parent
    users = {file.relative_to(package).parts[0] for file in package.rglob("*.py") if "DELIVERIES" in file.read_text()}
    assert users == {"telemetry"}
    telemetry.count_ended("test-ended", "apns_sandbox", "cancelled", "erased", 3)
    telemetry.count_ended("test-ended", "fcm", "sent", "", 0)
    reported = [line for line in exposition().decode().splitlines() if "test-ended" in line and "_total" in line]
    labels = 'app="test-ended",outcome="cancelled",platform="apns",reason="erased"'
    assert reported == [f"pushsvc_deliveries_total{{{labels}}} 3.0"]


WORKER = """
import sys
from pushsvc.telemetry import *
app, sent, held, pending, expiry = sys.argv[1:]
DELIVERIES.labels("shop", "apns", "sent", "").inc(float(sent))
ROUTE_HELD.labels("shop", "apns", "BadTopic").set(float(held))
QUEUE_PENDING.labels("bulk").set(float(pending))
CREDENTIAL_EXPIRY.labels("shop", "apns").set(float(expiry))
DELIVERY_SECONDS.labels("shop", "apns", "bulk").observe(0.2)
import os
print(os.getpid(), flush=True)
sys.stdin.read()
"""
READER = "import sys; from pushsvc.telemetry import exposition; sys.stdout.buffer.write(exposition())"


def samples(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_many_processes(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_bytes(b"of an earlier run")
    environ = {**os.environ, **prepare_multiprocess(folder)}
    assert list(folder.iterdir()) == []

    def read() -> dict[str, float]:
        done = subprocess.run([sys.executable, "-c", READER], env=environ, capture_output=True, text=True, check=True)
        return samples(done.stdout)

    workers = []
    for arguments in (["a", "3", "1", "50", "2000"], ["b", "4", "0", "70", "1000"]):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments], env=environ, stdin=-1, stdout=-1, text=True
        )
        workers.append(worker)
        assert worker.stdout is not None
        assert int(worker.stdout.readline()) == worker.pid
    try:
        reported = read()
        assert reported["pushsvc_deliveries_total"] == 7
        assert reported["pushsvc_route_held"] == 1
        assert reported["pushsvc_queue_pending"] == 70  # the last one that looked
        assert reported["pushsvc_credential_expiry_seconds"] == 1000
        assert reported["pushsvc_delivery_seconds_count"] == 2
        workers[0].communicate()
        mark_process_dead(workers[0].pid, folder)
        reported = read()
        assert reported["pushsvc_deliveries_total"] == 7  # what it counted still counts
        assert reported["pushsvc_route_held"] == 0  # the ended process holds no route
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.communicate()


async def _get(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.headers["Content-Type"], await response.text()


def test_the_listener() -> None:
    async def main() -> None:
        looked = 0

        async def refresh() -> None:
            nonlocal looked
            looked += 1
            telemetry.RETRY_PENDING.set(looked)
            if looked == 2:
                raise ConnectionError("the store is away")

        async with telemetry.serve_metrics("127.0.0.1", 0, refresh=refresh) as port:
            base = f"http://127.0.0.1:{port}"
            status, kind, text = await _get(f"{base}/metrics")
            assert (status, kind) == (200, CONTENT_TYPE)
            assert samples(text)["pushsvc_retry_pending"] == 1
            status, _, _ = await _get(f"{base}/metrics")
            assert status == 200  # a scrape outlives a store that is away
            assert (await _get(f"{base}/healthz"))[::2] == (200, '{"status": "ok"}')
            assert (await _get(f"{base}/other"))[0] == 404
            with pytest.raises(ConfigError, match=rf"^metrics\.port: cannot listen on 127\.0\.0\.1:{port}"):
                async with telemetry.serve_metrics("127.0.0.1", port):
                    pass
        with pytest.raises(aiohttp.ClientConnectionError):
            await _get(f"{base}/metrics")

    asyncio.run(main())


def test_the_mode_is_fixed_at_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MULTIPROCESS_ENV, str(tmp_path))
    assert b"pushsvc_accepted" in exposition()
