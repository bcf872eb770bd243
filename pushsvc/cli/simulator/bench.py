"""`pushsvc bench`: put load on the running service, with the simulator as its providers, and measure rates and
latencies.

It uses only the API, as any caller does, so it measures the whole service: processes, store and network. Its tokens
exist only in the simulator. Apple and Google would count them against the account, so it refuses to run if a provider
of the app is not on this machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import typer
from msgspec import Struct

from ...errors import ConfigError, PushsvcError
from ...model.instants import parse_instant
from ...model.push import JsonObject
from ..access import Access, App, Key, Url, access
from ..operator.calls import ApiCalls, ApiPage, open_calls, push_path
from ..operator.operator import paged
from ..output import Json, percentile, print_json, print_table
from ..progress import open_bars
from ..pushes.follow import ended
from ..running import run

if TYPE_CHECKING:
    from ...settings.schema import Settings

SAMPLE = 200
"""The number of pushes whose deliveries are read one by one, for the latencies."""
PATIENCE = 60.0
"""Seconds without a further delivery ending, after which the benchmark gives up."""


class NotAllSent(PushsvcError):
    """Some deliveries ended in another state than `sent`, or did not end."""


class BenchFigures(Struct, frozen=True, kw_only=True):
    """The results: times in milliseconds, rates per second."""

    deliveries: int
    posts: int
    seconds: float
    posts_rate: float
    accepted_rate: float
    """Deliveries accepted per second, while posting."""
    sent_rate: float
    """Deliveries ended per second, from the first POST to the last end."""
    post_p50: float
    post_p99: float
    delivery_p50: float
    """Measured from the start of the POST to the provider's answer, which may precede the 202."""
    delivery_p99: float


def bench(
    context: typer.Context,
    deliveries: Annotated[int, typer.Option("--deliveries", "-n", min=1, help="The number of deliveries.")] = 10_000,
    targets: Annotated[int, typer.Option("--targets", min=1, max=1000, help="Targets per push.")] = 1,
    callers: Annotated[int, typer.Option("--callers", min=1, max=500, help="Concurrent requests.")] = 32,
    platform: Annotated[Literal["apns", "fcm"], typer.Option("--platform", help="The platform.")] = "apns",
    lane: Annotated[Literal["urgent", "normal", "bulk"], typer.Option("--lane", help="The lane.")] = "normal",
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Load the running service against the simulator and print rates and latencies.

    Exit with 1 unless all were sent.
    """
    require_simulator(context.obj.settings())
    at = access(context.obj, url, key, app)
    figures = run(_run(at, deliveries, targets, callers, platform, lane, quiet=json))
    if json:
        print_json(figures)
        return
    rows = [
        ("deliveries", f"{figures.deliveries:,} in {figures.posts:,} pushes, {figures.seconds:.1f} s"),
        ("accepted", f"{figures.posts_rate:,.0f} pushes/s, {figures.accepted_rate:,.0f} deliveries/s"),
        ("sent", f"{figures.sent_rate:,.0f} deliveries/s, from the first POST to the last answer"),
        ("POST to 202", f"p50 {figures.post_p50:.1f} ms, p99 {figures.post_p99:.1f} ms"),
        ("POST to answer", f"p50 {figures.delivery_p50:.1f} ms, p99 {figures.delivery_p99:.1f} ms, of the provider"),
    ]
    print_table(("", "measured"), rows, prose=("measured",))


def require_simulator(settings: Settings) -> None:
    """Raise `ConfigError` if a provider is not on this machine."""
    settings.require_apps()
    simulated = "name the configuration of `pushsvc up --simulator`: --config var/playground/pushsvc.toml"
    if not any(each.providers for each in settings.apps.values()):
        raise ConfigError("apps", "no app has a provider, to which a benchmark sends", simulated)
    for name, each in settings.apps.items():
        for platform, config in each.providers.items():
            host = urlsplit(getattr(config, "endpoint", "")).hostname or ""
            if not _is_loopback(host):
                raise ConfigError(
                    f"apps.{name}.{platform}.endpoint",
                    "a benchmark sends to tokens that do not exist, so the provider must be the simulator",
                    simulated,
                )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Posted(NamedTuple):
    """A push with the start and the end of its POST, in Unix seconds."""

    id: str
    began: float
    ended: float


async def _run(
    at: Access, deliveries: int, targets: int, callers: int, platform: str, lane: str, *, quiet: bool
) -> BenchFigures:
    posted: list[Posted] = []
    async with open_calls(at) as api:
        began = time.time()
        documents = _documents(deliveries, targets, platform, lane)
        pushes = -(-deliveries // targets)

        async def caller(posting: Callable[[], None]) -> None:
            for document in documents:
                started = time.time()
                answer = await api.document("POST", "/v1/push", document)
                posted.append(Posted(str(answer["id"]), started, time.time()))
                posting()

        with open_bars(sys.stderr, "count", "elapsed", quiet=quiet, transient=True) as bars:
            posting, ending = (
                partial(bars.advance, bars.add_task(what, total=pushes)) for what in ("pushes posted", "pushes sent")
            )
            await asyncio.gather(*(caller(posting) for _ in range(callers)))
            accepted = time.time()
            await asyncio.gather(*(_until_sent(api, posted[first::callers], ending) for first in range(callers)))
        # The last answers come to the last pushes, but a few of the others may be as late.
        answers = await _answers(api, [*posted[:: max(1, len(posted) // SAMPLE)], *posted[-callers:]])
    over = max(answered for _, answered in answers)
    # Of the same pushes as the answers: percentiles of two samples cannot be compared.
    posts = sorted(push.ended - push.began for push in {push.id: push for push, _ in answers}.values())
    times = sorted(answered - push.began for push, answered in answers)
    return BenchFigures(
        deliveries=deliveries,
        posts=len(posted),
        seconds=over - began,
        posts_rate=len(posted) / (accepted - began),
        accepted_rate=deliveries / (accepted - began),
        sent_rate=deliveries / (over - began),
        post_p50=percentile(posts, 0.5),
        post_p99=percentile(posts, 0.99),
        delivery_p50=percentile(times, 0.5),
        delivery_p99=percentile(times, 0.99),
    )


def _documents(deliveries: int, targets: int, platform: str, lane: str) -> Iterator[JsonObject]:
    """Yield the push documents. No two pushes share a token."""
    from ...lab.simulator import apns_token, fcm_token

    token = apns_token if platform == "apns" else fcm_token
    run = f"bench-{time.time_ns():x}"
    for first in range(0, deliveries, targets):
        numbers = range(first, min(first + targets, deliveries))
        tokens = [{"platform": platform, "token": token("ok", f"{run}-{number}")} for number in numbers]
        yield {"to": {"tokens": tokens}, "lane": lane, "notification": {"title": "Order 7 shipped"}}


async def _until_sent(api: ApiCalls, posted: list[Posted], ending: Callable[[], None]) -> None:
    """Wait until every delivery of these pushes was sent. Calls `ending` for each push that has ended."""
    deadline = time.monotonic() + PATIENCE
    for push in posted:
        while not ended(status := await api.document("GET", push_path(push.id))):
            if time.monotonic() > deadline:
                raise NotAllSent(f"push {push.id} has not ended: {status['counts']}")
            await asyncio.sleep(0.02)
        if status["counts"]["sent"] != status["counts"]["total"]:
            raise NotAllSent(f"push {push.id} did not end as sent: {status['counts']}")
        ending()
        deadline = time.monotonic() + PATIENCE


async def _answers(api: ApiCalls, posted: Iterable[Posted]) -> list[tuple[Posted, float]]:
    """Return the deliveries of these pushes, each with the time of the provider's answer."""
    found = []
    for push in posted:
        rows = await paged(api.pages(f"{push_path(push.id)}/deliveries", {}, ApiPage[dict[str, Any]]))
        found += [(push, parse_instant(row["at"]) / 1000) for row in rows]
    return found
