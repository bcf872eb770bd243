"""What it costs to be watched: intake and delivery with metrics and traces, beside both without.

    python -m tests.bench.observed [--rounds 5] [--seconds 3] [--scale 1.0] [--shares 0.01 0.1 1]

One push a call to one device, where a trace costs most, and deliveries of 1,000 a push, which share its spans. Without
metrics nothing is counted; with them the process shares its values by files, as the parts of `pushsvc up` do, and all
metrics are read every two seconds. With traces a collector beside the load takes the spans, which are counted
afterwards by the official schema: one that was dropped shows as fewer spans a push. The settings take turns, and
figures are medians; the columns `of off` are those of rates, and of CPU, each in one round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any, Final

import msgspec
import uvloop
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pushsvc import telemetry
from pushsvc.api.http import dispatch
from pushsvc.stages.dispatch import metrics, settling
from pushsvc.telemetry import requests

from . import contestants, delivery, intake
from .figures import record
from .load import generator, put_load
from .machine import cores, cpu_seconds, pin

SCRAPED: Final = 2.0
"""Seconds between two looks at all metrics, as in `config/prometheus/prometheus.yml`."""
CONNECTIONS: Final = 64
DELIVERED: Final = (
    delivery.Contestant("ours", "1 a push", 20_000, 1),
    delivery.Contestant("ours", "1,000 a push", 60_000, 1000),
)


class Watch(msgspec.Struct, frozen=True):
    """What watches a process."""

    metrics: bool = False
    share: float = 0.0
    """The share of requests that begin a trace."""

    @property
    def name(self) -> str:
        return f"traces of {self.share:g}" if self.share else "metrics" if self.metrics else "off"


OFF: Final = Watch()


class Row(msgspec.Struct, frozen=True):
    """A round."""

    rate: float
    cpu_us: float
    spans: float
    """Spans that the collector has got, by pushes."""


# --- the watched process ----------------------------------------------------------------------------


@contextmanager
def watched(by: Watch) -> Iterator[None]:
    """Watch this process while the block lasts."""
    over = threading.Event()

    def read_metrics() -> None:
        while not over.wait(SCRAPED):
            telemetry.exposition()

    if by.metrics:
        threading.Thread(target=read_metrics, daemon=True).start()
    else:
        count_nothing()
    try:
        with telemetry.tracing(by.share, "bench"):
            yield
    finally:
        over.set()


def count_nothing() -> None:
    """Make this process count nothing, until it ends."""

    def nothing(*_: object, **__: object) -> tuple[()]:
        return ()

    for owner, names in (
        (dispatch._Row, ("count",)),
        (requests.Counted, ("add",)),
        (metrics.RouteMetrics, ("answered", "limited")),
        (settling, ("count_ended", "passed")),
        (telemetry.StageSeconds, ("passed",)),
    ):
        for name in names:
            assert hasattr(owner, name), name
            setattr(owner, name, nothing)


def run(task: dict[str, Any]) -> None:
    """Serve, or deliver, watched as the task says."""
    with watched(msgspec.convert(task["watch"], Watch)):
        if "serve" in task:
            uvloop.run(intake.run_server("redis", task["serve"]))
        else:
            print(json.dumps(contestants.contest(task)))


# --- the collector, and what is compared ------------------------------------------------------------


class Collector:
    """Takes spans by HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def taken(self) -> int:
        """Return the number of spans since the last call."""
        bodies, self.bodies = self.bodies, []
        count = 0
        for body in bodies:
            message: Any = ExportTraceServiceRequest.FromString(body)
            count += sum(len(scope.spans) for part in message.resource_spans for scope in part.scope_spans)
        return count


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector to which the environment of further processes leads, while the block lasts."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = threading.Thread(target=server.serve_forever, daemon=True)
        running.start()
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
            running.join()


@contextmanager
def shared_metrics() -> Iterator[None]:
    """Let the processes that start in the block share their metrics by files."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[telemetry.MULTIPROCESS_ENV] = folder
        try:
            yield
        finally:
            del os.environ[telemetry.MULTIPROCESS_ENV]


async def posts(redis: str, by: Watch, collector: Collector, seconds: float) -> Row:
    """Serve and post for some seconds."""
    task = {"serve": redis, "watch": msgspec.to_builtins(by)}
    arguments = ["tests.bench.observed", json.dumps(task)]
    with shared_metrics():
        async with intake.server_process(arguments, cores()[0]) as (url, pid):
            post = intake.push_post(url, 1)
            collector.taken()
            warm = await asyncio.to_thread(put_load, post, connections=CONNECTIONS, seconds=1)
            before = cpu_seconds(pid)
            load = await asyncio.to_thread(put_load, post, connections=CONNECTIONS, seconds=seconds)
            cpu = (cpu_seconds(pid) - before) / load.requests * 1e6
    # The process has sent its last spans by now.
    return Row(load.rate, cpu, collector.taken() / (warm.requests + load.requests))


def deliveries(
    simulator: Any, store: str, what: delivery.Contestant, by: Watch, collector: Collector, scale: float
) -> Row:
    """Deliver what waits in the queue."""
    address = delivery.address_of(simulator)
    collector.taken()
    with shared_metrics():
        row = delivery.measure(
            simulator,
            store,
            json.loads(address.as_json()),
            "apns",
            what,
            scale,
            module="tests.bench.observed",
            watch=msgspec.to_builtins(by),
            share=by.share,
        )
    return Row(row["rate"], row["cpu_us"], collector.taken() / row["deliveries"] * what.per_push)


def in_turn(watches: Sequence[Watch], rounds: int) -> Iterator[Watch]:
    """Yield the settings in turn, each round in another order."""
    for _ in range(rounds):
        yield from random.sample(watches, len(watches))


def show(what: str, found: dict[Watch, list[Row]]) -> None:
    """Print and record the figures."""
    print(f"{what:<28} {'a second':>9} {'of off':>14} {'CPU us':>8} {'of off':>14} {'spans':>6}")
    for by, rows in found.items():
        rates, costs = [row.rate for row in rows], [row.cpu_us for row in rows]
        faster = [own.rate / its.rate for own, its in zip(rows, found[OFF], strict=True)]
        cheaper = [its.cpu_us / own.cpu_us for own, its in zip(rows, found[OFF], strict=True)]
        print(
            f"  {by.name:<26} {median(rates):>9,.0f} {spread(faster):>14} {median(costs):>8.1f} {spread(cheaper):>14}"
            f" {median(row.spans for row in rows):>6.2f}",
            flush=True,
        )
        record(f"{what}, {by.name}", "/s", *rates)
        record(f"{what}, {by.name}", "us", *costs)
        if by != OFF:
            record(f"{what}, {by.name}: rate of off", "share", *faster)
            record(f"{what}, {by.name}: CPU of off", "share", *cheaper)


def spread(shares: Sequence[float]) -> str:
    return f"{median(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"


async def show_intake(watches: Sequence[Watch], rounds: int, seconds: float, collector: Collector) -> None:
    """Measure intake with each setting."""
    found: dict[Watch, list[Row]] = {by: [] for by in watches}
    last = cores()[-1]
    pin(0, {last})
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(intake.redis_server({last}))
        for by in in_turn(watches, rounds):
            found[by].append(await posts(redis, by, collector, seconds))
    show("intake, 1 a POST", found)
    print(f"load: {generator()}")


def show_delivery(watches: Sequence[Watch], rounds: int, scale: float, collector: Collector) -> None:
    """Measure delivery with each setting."""
    with delivery.servers() as (simulator, store):
        for what in DELIVERED:
            found: dict[Watch, list[Row]] = {by: [] for by in watches}
            for by in in_turn(watches, rounds):
                found[by].append(deliveries(simulator, store, what, by, collector, scale))
            show(f"delivery, {what.label}", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load in each round")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of deliveries")
    parser.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.1, 1.0], help="of requests, traced")
    parser.add_argument("task", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        run(json.loads(options.task))
        return
    watches = [OFF, Watch(metrics=True), *(Watch(metrics=True, share=share) for share in options.shares)]
    with collecting() as collector:
        uvloop.run(show_intake(watches, options.rounds, options.seconds, collector))
        show_delivery(watches, options.rounds, options.scale, collector)


if __name__ == "__main__":
    main()
