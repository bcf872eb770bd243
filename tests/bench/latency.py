"""How long a push takes on an idle service: from the POST to the provider's receipt, and what each stage adds.

    python -m tests.bench.latency [--pushes 500] [--gap 0.02]

One push after the other, so that nothing waits for anything else. The receipt is the instant at which the simulator has
read the request, by the same clock. Beside it, with the same pauses: a client that calls the simulator itself over a
connection that is open, and a POST to an aiohttp handler that answers a constant 202. The service and its store have
the first core, the simulator and the caller the last one. The caller is Python: it has one request under way, and
measures no rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import secrets
import socket
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import SimulatorHandle
from pushsvc.net.http2.transport import HTTPS, POST, Pool, authority, field, path

from .contestants import PAYLOAD
from .figures import record
from .intake import server_process
from .load import Post, requests_of
from .machine import cores, pin
from .simulator import provider_token
from .whole import PATIENCE, arrived, push_to, running_service, until_still

STAGE = re.compile(r'pushsvc_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)')
STAGES = ("queued", "taken", "written", "answered")
WARM = 20
"""Pushes that are not counted."""


def percentile(values: Sequence[float], share: float) -> float:
    """Return the percentile by the nearest rank."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def post_each(post: Post, count: int, gap: float) -> dict[str, tuple[float, float]]:
    """Post one after the other over one connection. Returns for each token when the POST began, and the seconds until
    it was answered."""
    seed = f"be{secrets.token_hex(3)}"
    request, where = requests_of(post, seed), urlsplit(post.url)
    found: dict[str, tuple[float, float]] = {}
    with socket.create_connection((where.hostname or "", where.port or 80)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(count):
            content = request()
            began = time.time()
            connection.sendall(content)
            answer = connection.recv(65536)  # a short answer comes in one segment
            found[f"{seed}{number:056x}"] = began, time.time() - began
            if not answer.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(answer.decode(errors="replace"))
            time.sleep(gap)
    return found


async def call_each(simulator: SimulatorHandle, count: int, gap: float) -> dict[str, float]:
    """Send one after the other straight to the simulator. Returns for each token when it was sent."""
    credentials = simulator.credentials
    context = ssl.create_default_context(cafile=str(credentials.ca_file))
    fields = {
        "authorization": f"bearer {provider_token(credentials)}",
        "apns-topic": credentials.topic,
        "apns-push-type": "alert",
        "apns-priority": "10",
    }
    common = b"".join(field(name, value) for name, value in fields.items())
    found: dict[str, float] = {}
    room = asyncio.Event()
    async with Pool(simulator.apns_url, ssl=context) as pool:
        pool.on_room(room.set)
        while pool.room <= 0:
            room.clear()
            await room.wait()
        for number in range(count):
            token = f"ca{secrets.token_hex(3)}{number:056x}"
            answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            found[token] = time.time()
            block = POST + HTTPS + authority("simulator") + path(f"/3/device/{token}") + common
            pool.submit(block, PAYLOAD, answered, lambda future, answer: future.set_result(answer))
            answer = await answered
            if getattr(answer, "status", 0) != 200:
                raise RuntimeError(str(answer))
            await asyncio.sleep(gap)
    return found


def receipts(simulator: SimulatorHandle, count: int) -> dict[str, float]:
    """Return when the simulator read the last pushes, by token, in Unix seconds."""
    requests = simulator.call("GET", f"/record/apns?limit={count}")["requests"]
    return {dict(each["headers"])[":path"].rpartition("/")[2]: each["at"] for each in requests}


def stages(playground: Playground) -> dict[str, tuple[float, float]]:
    """Return the seconds that deliveries have spent in each stage, and their number."""
    query = urllib.request.Request(f"{playground.url}/metrics")
    with urllib.request.urlopen(query, timeout=10) as answer:
        found = {(kind, stage): float(value) for kind, stage, value in STAGE.findall(answer.read().decode())}
    return {stage: (found.get(("sum", stage), 0.0), found.get(("count", stage), 0.0)) for stage in STAGES}


def until_counted(playground: Playground, before: dict[str, tuple[float, float]], count: int) -> dict[str, Any]:
    """Return `stages` once all processes have counted so many deliveries in each since `before`. Raises `RuntimeError`
    where they never do."""
    deadline = time.monotonic() + PATIENCE
    while True:
        after = stages(playground)
        missing = count - min(after[stage][1] - before[stage][1] for stage in STAGES)
        if missing <= 0:
            return after
        if time.monotonic() > deadline:
            raise RuntimeError(f"{missing:.0f} deliveries are missing in the metrics")
        time.sleep(0.05)


def show(what: str, times: Iterable[float]) -> None:
    """Print the percentiles of times in seconds, as milliseconds."""
    ordered = sorted(1000 * each for each in list(times)[WARM:])
    p50, p99 = percentile(ordered, 0.5), percentile(ordered, 0.99)
    print(f"{what:<52} {p50:>8.2f} {p99:>8.2f}", flush=True)
    record(f"{what}, p50", "ms", p50)
    record(f"{what}, p99", "ms", p99)


async def measure_bare(count: int, gap: float, core: int) -> list[float]:
    """Return the seconds of POSTs to a bare aiohttp handler."""
    async with server_process(["tests.bench.intake", "--serve", "bare"], core) as (url, _):
        post = Post(f"{url}/v1/push", json.dumps({"to": {"tokens": ["@@"]}}))
        return [took for _, took in (await asyncio.to_thread(post_each, post, count, gap)).values()]


def main(pushes: int, gap: float) -> None:
    telemetry.configure_logging("warning", json=False)
    every, count = cores(), pushes + WARM
    pin(0, every[-1:])
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), keep=count + 1) as playground,
        running_service(playground, every[:1]),
    ):
        simulator = playground.simulator
        print(f"{'ms, one push at a time, nothing else to do':<52} {'p50':>8} {'p99':>8}")
        called = uvloop.run(call_each(simulator, count, gap))
        read = receipts(simulator, count)
        show("a client alone: to the receipt", (read[token] - began for token, began in called.items()))
        show("a bare aiohttp handler: POST to 202", uvloop.run(measure_bare(count, gap, every[0])))
        before, had = stages(playground), arrived(simulator)
        posted = post_each(push_to(playground, 1), count, gap)
        if (came := until_still(simulator, had + count)[0] - had) != count:
            raise RuntimeError(f"{came} of {count} deliveries have arrived")
        after, read = until_counted(playground, before, count), receipts(simulator, count)
        show("pushsvc: POST to 202", (took for _, took in posted.values()))
        show("pushsvc: POST to the receipt", (read[token] - began for token, (began, _) in posted.items()))
    words = []
    for stage in STAGES:
        seconds, number = (new - old for new, old in zip(after[stage], before[stage], strict=True))
        if number:
            words.append(f"{stage} {seconds / number * 1000:.2f}")
            record(f"stage: {stage}, mean", "ms", seconds / number * 1000)
    print(f"mean ms that each stage adds, by the service's own clock: {', '.join(words)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pushes", type=int, default=500)
    parser.add_argument("--gap", type=float, default=0.02, help="seconds between an answer and the next push")
    arguments = parser.parse_args()
    main(arguments.pushes, arguments.gap)
