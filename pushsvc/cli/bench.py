"""`pushsvc bench`: load on the running service, whose providers are the simulator; rates and latencies.

It only speaks to the API, as any caller does, so it measures the service as it stands there: processes, store and all.
The tokens that it sends to are the simulator's. Apple and Google would count them against the account, so it refuses
to run where an app's providers are not on this machine.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple
from urllib.parse import urlsplit

import typer
from msgspec import Struct

from ..errors import ConfigError, PushsvcError
from ..model.push import JsonObject
from .client import Access, App, Client, Key, Url, access, open_client
from .follow import ended
from .output import Json, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..settings import Settings

SAMPLE = 200
"""Pushes of which each delivery's own instant is asked for."""
PATIENCE = 60.0
"""Seconds without one more delivery ending, after which it is given up."""


class NotAllSent(PushsvcError):
    """Some deliveries ended otherwise than `sent`, or did not end."""


class Figures(Struct, frozen=True, kw_only=True):
    """Times in milliseconds, rates a second."""

    deliveries: int
    posts: int
    seconds: float
    posts_rate: float
    accepted_rate: float
    """Deliveries accepted, while posting."""
    sent_rate: float
    """Deliveries ended, from the first POST to the last end."""
    post_p50: float
    post_p99: float
    delivery_p50: float
    """From the POST's begin to the provider's answer, which may come before the caller has read the 202."""
    delivery_p99: float


def bench(
    context: typer.Context,
    deliveries: Annotated[int, typer.Option("--deliveries", "-n", min=1, help="How many in all.")] = 10_000,
    targets: Annotated[int, typer.Option("--targets", min=1, max=1000, help="Of one push.")] = 1,
    callers: Annotated[int, typer.Option("--callers", min=1, max=500, help="Requests under way at once.")] = 32,
    platform: Annotated[Literal["apns", "fcm"], typer.Option("--platform", help="Where to.")] = "apns",
    lane: Annotated[Literal["urgent", "normal", "bulk"], typer.Option("--lane", help="In which lane.")] = "normal",
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Load the running service against the simulator; print rates and latencies. Exit with 1 unless all was sent."""
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
    """Raises `ConfigError` where a provider is not on this machine."""
    settings.require_apps()
    for name, each in settings.apps.items():
        for platform, config in each.providers.items():
            host = urlsplit(getattr(config, "endpoint", "")).hostname or ""
            if not _is_loopback(host):
                raise ConfigError(
                    f"apps.{name}.{platform}.endpoint",
                    "a benchmark sends to tokens that do not exist, so the provider must be the simulator",
                    "name the configuration of `pushsvc up --simulator`: --config var/playground/pushsvc.toml",
                )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Posted(NamedTuple):
    """A push, and when its POST began and ended, in Unix seconds."""

    id: str
    began: float
    ended: float


async def _run(
    at: Access, deliveries: int, targets: int, callers: int, platform: str, lane: str, *, quiet: bool
) -> Figures:
    posted: list[Posted] = []
    async with open_client(at) as client:
        began = time.time()
        documents = _documents(deliveries, targets, platform, lane)
        pushes = -(-deliveries // targets)

        async def caller(posting: Callable[[], None]) -> None:
            for document in documents:
                started = time.time()
                answer = await client.send(document, {})
                posted.append(Posted(str(answer["id"]), started, time.time()))
                posting()

        with _display(pushes, quiet=quiet) as (posting, ending):
            await asyncio.gather(*(caller(posting) for _ in range(callers)))
            accepted = time.time()
            await asyncio.gather(*(_until_sent(client, posted[first::callers], ending) for first in range(callers)))
        # The last answers come to the last pushes, but a few of the others may be as late.
        answers = await _answers(client, [*posted[:: max(1, len(posted) // SAMPLE)], *posted[-callers:]])
    over = max(answered for _, answered in answers)
    # Of the same pushes as the answers: percentiles of two samples cannot be compared.
    posts = sorted(push.ended - push.began for push in {push.id: push for push, _ in answers}.values())
    times = sorted(answered - push.began for push, answered in answers)
    return Figures(
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
    """The pushes, each to tokens that no other has."""
    from ..lab.simulator import apns_token, fcm_token

    token = apns_token if platform == "apns" else fcm_token
    run = f"bench-{time.time_ns():x}"
    for first in range(0, deliveries, targets):
        numbers = range(first, min(first + targets, deliveries))
        tokens = [{"platform": platform, "token": token("ok", f"{run}-{number}")} for number in numbers]
        yield {"to": {"tokens": tokens}, "lane": lane, "notification": {"title": "Order 7 shipped"}}


async def _until_sent(client: Client, posted: list[Posted], ending: Callable[[], None]) -> None:
    """Return when every delivery of these pushes was sent; `ending` is called for each push."""
    deadline = time.monotonic() + PATIENCE
    for push in posted:
        while not ended(status := await client.status(push.id)):
            if time.monotonic() > deadline:
                raise NotAllSent(f"push {push.id} has not ended: {status['counts']}")
            await asyncio.sleep(0.02)
        if status["counts"]["sent"] != status["counts"]["total"]:
            raise NotAllSent(f"push {push.id} ended otherwise: {status['counts']}")
        ending()
        deadline = time.monotonic() + PATIENCE


@contextmanager
def _display(pushes: int, *, quiet: bool) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Two bars at a terminal, nothing else: to be called at each push that was posted, and at each that has ended."""
    if quiet or not sys.stderr.isatty():
        yield (lambda: None), (lambda: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bars = [progress.add_task(what, total=pushes) for what in ("pushes posted", "pushes sent")]
        yield (lambda: progress.advance(bars[0])), (lambda: progress.advance(bars[1]))


async def _answers(client: Client, posted: Iterable[Posted]) -> list[tuple[Posted, float]]:
    """Each delivery of these pushes, and when the provider answered."""
    return [
        (push, datetime.fromisoformat(row["at"]).timestamp())
        for push in posted
        async for row in client.deliveries(push.id)
    ]


def percentile(ordered: list[float], share: float) -> float:
    """Of seconds in order, in milliseconds."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000
