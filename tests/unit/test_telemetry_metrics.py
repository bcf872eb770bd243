"""Metrics: their names and labels are fixed, and one scrape shows all processes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

import pushsvc
from pushsvc import telemetry
from pushsvc.errors import ConfigError
from pushsvc.telemetry import (
    CONTENT_TYPE,
    MULTIPROCESS_ENV,
    Figure,
    SharedFolder,
    exposition,
)

CONTRACT = {
    "pushsvc_http_requests_total": "app method route code",
    "pushsvc_http_request_duration_seconds": "method route",
    "pushsvc_deliveries_accepted_total": "app",
    "pushsvc_pushes_refused_total": "app limit",
    "pushsvc_deliveries_total": "app platform outcome reason",
    "pushsvc_attempts_total": "app platform result",
    "pushsvc_queue_pending": "lane",
    "pushsvc_queue_limit": "",
    "pushsvc_oldest_pending_age_seconds": "lane",
    "pushsvc_retry_pending": "",
    "pushsvc_scheduled": "app",
    "pushsvc_dead_letters": "app",
    "pushsvc_replayed_total": "app",
    "pushsvc_receipts_waiting": "app",
    "pushsvc_provider_request_duration_seconds": "app platform",
    "pushsvc_delivery_duration_seconds": "app platform lane",
    "pushsvc_route_held": "app platform reason",
    "pushsvc_pruned_total": "app platform reason",
    "pushsvc_pruning_frozen": "app platform",
    "pushsvc_webhook_calls_total": "app result",
    "pushsvc_webhook_lag_seconds": "app",
    "pushsvc_webhook_dead_batches": "app",
    "pushsvc_jobs_total": "job result",
    "pushsvc_cleanup_removed_total": "app what",
    "pushsvc_cleanup_last_end_timestamp_seconds": "",
    "pushsvc_credential_expiry_timestamp_seconds": "app platform",
    "pushsvc_workers": "part",
    "pushsvc_child_restarts_total": "part",
    "pushsvc_redis_errors_total": "",
    "pushsvc_config_last_reload_successful": "",
    "pushsvc_config_last_reload_timestamp_seconds": "",
    "pushsvc_build_info": "version",
    "pushsvc_live_connections": "app transport",
    "pushsvc_live_connects_total": "app result",
    "pushsvc_live_disconnects_total": "app code",
    "pushsvc_live_messages_total": "app result",
    "pushsvc_live_ack_seconds": "",
    "pushsvc_live_resends_total": "",
    "pushsvc_live_duplicates_total": "",
    "pushsvc_live_recoveries_total": "app result",
    "pushsvc_live_faults_total": "kind",
    "pushsvc_events_total": "app platform event",
    "pushsvc_stage_seconds": "stage",
}
"""The names that other programs hold on to, with their labels. More labels may be added to those of the live channel,
where none is fixed."""


def defined() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every metric with its kind and labels."""
    found = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, MetricWrapperBase | Figure):
            (family,) = metric.describe()
            labels = metric.labels if isinstance(metric, Figure) else metric._labelnames
            found[family.name + "_total" * (family.type == "counter")] = (family.type, tuple(labels))
    return found


def test_the_contract() -> None:
    metrics = defined()
    for name, labels in CONTRACT.items():
        assert set(labels.split()) <= set(metrics[name][1]), name
        assert not labels or len(labels.split()) == len(metrics[name][1]), name


def test_names_say_what_they_are() -> None:
    for name, (kind, _) in defined().items():
        assert name.startswith("pushsvc_"), name
        assert name.endswith("_total") == (kind == "counter"), name
        assert (kind != "histogram") or name.endswith("_seconds"), name
        assert not re.search(r"_(ms|millis|minutes|bytes_kb|percent)\b", name), name
        if kind == "gauge" and re.search(r"expiry|_at\b|last_\w+_timestamp|timestamp", name):
            assert name.endswith("_timestamp_seconds"), "an instant"


def test_promtool_finds_no_fault() -> None:
    """All families as a service has them, each with a value."""
    for figure in vars(telemetry).values():
        if isinstance(figure, Figure):
            figure.show({tuple("x" for _ in figure.labels): 1.0})
    promtool = shutil.which("promtool")
    if promtool is None:
        assert "CI" not in os.environ, "promtool is missing"
        pytest.skip("promtool is missing")
    done = subprocess.run([promtool, "check", "metrics"], input=exposition(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_one_process() -> None:
    telemetry.PRUNED.labels("test-one", "apns", "Unregistered").inc(2)
    text = exposition().decode()
    assert 'pushsvc_pruned_total{app="test-one",platform="apns",reason="Unregistered"} 2.0' in text
    assert CONTENT_TYPE.startswith("text/plain; version=")


COUNTS = "DELIVERIES.labels("


def test_ended_deliveries_are_counted_in_one_place_at_the_platform_of_their_route() -> None:
    package = Path(pushsvc.__file__).parent
    users = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if COUNTS in path.read_text()}
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
QUEUE_PENDING.show({("bulk",): float(pending)})
CREDENTIAL_EXPIRY.labels("shop", "apns").set(float(expiry))
DELIVERY_SECONDS.labels("shop", "apns", "bulk").observe(0.2)
import os
print(os.getpid(), flush=True)
sys.stdin.read()
"""
READER = """
import sys
from pushsvc.telemetry import *
QUEUE_PENDING.show({("bulk",): 70})
sys.stdout.buffer.write(exposition())
"""


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
    environ = {**os.environ, MULTIPROCESS_ENV: str(folder)}

    def read() -> dict[str, float]:
        done = subprocess.run([sys.executable, "-c", READER], env=environ, capture_output=True, text=True, check=True)
        restarts = [
            line.rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith("pushsvc_child_restarts")
        ]
        # Also those of which nothing was counted yet.
        assert CONTRACT.keys() <= set(re.findall(r"^# TYPE (\S+) ", done.stdout, re.MULTILINE))
        return samples(done.stdout) | {name: float(value) for name, value in restarts}

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
        assert reported["pushsvc_queue_pending"] == 70  # as the process that answers has read it
        assert reported["pushsvc_credential_expiry_timestamp_seconds"] == 1000
        assert reported["pushsvc_delivery_duration_seconds_count"] == 2
        workers[0].communicate()
        shared = SharedFolder(folder)
        shared.ended(workers[0].pid)
        shared.restarted("dispatch")
        shared.restarted("dispatch")
        reported = read()
        assert reported["pushsvc_deliveries_total"] == 7  # what it counted still counts
        assert reported["pushsvc_route_held"] == 0  # the ended process holds no route
        assert reported['pushsvc_child_restarts_total{part="dispatch"}'] == 2
        assert reported['pushsvc_child_restarts_total{part="serve"}'] == 0
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.communicate()


FILL = """
filler = pathlib.Path(sys.argv[1], "filler")
with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
    while True:
        file.write(bytes(4096))
"""
IN_FULL = """
import contextlib, functools, itertools, pathlib, sys, time
time.monotonic = functools.partial(next, itertools.count(0.0, 60.0))  # room is looked for each time
{at_start}
from pushsvc import telemetry
{later}
telemetry.configure_logging(json=True)
folder = telemetry.SharedFolder(pathlib.Path(sys.argv[1]))
folder.restarted("dispatch")
for number in range(900):
    telemetry.DELIVERIES.labels("shop", "apns", "failed", f"reason{{number}}").inc()
assert telemetry.exposition().count(b"pushsvc_deliveries_total{{") < 900
filler.unlink()
for number in range(900):
    telemetry.DELIVERIES.labels("shop", "apns", "failed", f"reason{{number}}").inc()
assert telemetry.exposition().count(b'"}} 2.0') == 900
folder.restarted("dispatch")
print("it lives")
"""


@pytest.mark.parametrize("full", ["at_start", "later"])
def test_a_full_file_system_ends_no_process_and_what_was_counted_is_shown_later(tmp_path: Path, full: str) -> None:
    """A page of a mapped file for which there is no room ends a process by SIGBUS."""
    mount = f'mount -t tmpfs -o size=2m none {tmp_path} && exec "$@"'
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    environ = {**os.environ, telemetry.MULTIPROCESS_ENV: str(tmp_path)}
    script = IN_FULL.format(**{"at_start": "", "later": "", full: FILL})
    command = [*alone, sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "it lives\n"), done.stderr
    assert done.stderr.count('"metrics_not_shared"') == 1
    assert done.stderr.count('"metrics_shared_again"') == 1


async def _get(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_the_listener() -> None:
    async with telemetry.serve_metrics("127.0.0.1", 0) as port:
        base = f"http://127.0.0.1:{port}"
        status, kind, text = await _get(f"{base}/metrics")
        assert (status, kind) == (200, CONTENT_TYPE)
        assert "pushsvc_build_info{" in text
        assert (await _get(f"{base}/healthz"))[::2] == (200, '{"status": "ok"}')
        assert (await _get(f"{base}/other"))[0] == 404
        with pytest.raises(ConfigError, match=rf"^metrics\.port: cannot listen on 127\.0\.0\.1:{port}"):
            async with telemetry.serve_metrics("127.0.0.1", port):
                pass
    with pytest.raises(aiohttp.ClientConnectionError):
        await _get(f"{base}/metrics")


async def test_the_listener_stops_though_a_client_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, full = asyncio.get_running_loop(), asyncio.Event()
    pause = web.RequestHandler.pause_writing

    def pause_writing(self: web.RequestHandler) -> None:
        pause(self)
        full.set()

    monkeypatch.setattr(web.RequestHandler, "pause_writing", pause_writing)
    async with telemetry.serve_metrics("127.0.0.1", 0) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
        await full.wait()
        begun = loop.time()
    took = loop.time() - begun
    writer.transport.abort()
    assert took < 20


def test_the_mode_is_fixed_at_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MULTIPROCESS_ENV, str(tmp_path))
    assert b"pushsvc_deliveries_accepted" in exposition()
