"""`pushsvc stats`: show the state of the service, once or continuously."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from ..access import Key, Url, key_of
from ..get import get
from ..operator.operator import open_operator
from ..output import Json, counted, print_json, print_table
from ..pushes.failed import AppName
from ..running import run
from .figures import OUTCOMES, ServiceFigures, figures

if TYPE_CHECKING:
    from rich.console import RenderableType

Every = Annotated[float, typer.Option("--every", min=0.2, max=3600, help="Seconds between two samples.", metavar="S")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Update continuously; Ctrl-C stops.")]

TITLES = ("app", "platform", "urgent", "normal", "bulk", "retrying", "workers", "sent/s", *OUTCOMES, "held")
SHOWN = TITLES[:-1]
"""The columns at a terminal, where lines above the table name the routes that are held."""

OTHERS = {
    "full": "full",
    "emptied": "emptied",
    "memory": "memory",
    "audience": "audience",
    "silent": "silent",
    "account": "account",
    "reload": "config",
    "restart": "config",
    "quarantine": "quarantine",
}
"""The first words of summary lines about conditions that have no figure of their own, by their kinds."""
ALARMS = ("held", "frozen", "unserved", "webhook", *OTHERS.values())
"""The first words of summary lines that need attention."""


def stats(
    context: typer.Context,
    watch: Watch = False,
    every: Every = 1.0,
    app: AppName = "",
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Show queues, rates, outcomes by app and platform, held and frozen routes, and webhooks in trouble.

    Rates are those between two samples. Counters start with the processes; they come from the API's /metrics,
    everything else from the API if there is a key with the scope admin, or from the store. With --watch and --json each
    sample is one line.
    """
    try:
        run(_stats(context, app, url, key, watch=watch, every=every, json=json))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _stats(
    context: typer.Context, app: str, url: str, key: str, *, watch: bool, every: float, json: bool
) -> None:
    looks = _looks(context, app, url, key_of(key, app), every)
    try:
        if watch:
            await _follow(looks, json=json)
            return
        await anext(looks)
        last = await anext(looks)
    finally:
        await looks.aclose()
    if json:
        print_json(last)
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns
        print("\n".join(folded(line, width) if terminal else line for line in summary(last)))
        titles = SHOWN if terminal else TITLES
        print_table(titles, [row[: len(titles)] for row in rows(last)])
        if terminal:
            print(f"{OUTCOMES[0]} to {OUTCOMES[-1]}: since the service started")


async def _looks(
    context: typer.Context, app: str, url: str, key: str, every: float
) -> AsyncGenerator[ServiceFigures, None]:
    """Yield samples, one after the other. Without a key only the counters are asked for at the URL."""
    base = (url or context.obj.server_url()).rstrip("/")
    last: ServiceFigures | None = None
    async with (
        open_operator(context, app, url if key else "", key) as operator,
        aclosing(operator.states(every)) as states,
    ):
        async for state in states:
            metrics, why = await _metrics(base, key)
            last = figures(state, metrics, last, now=time.time(), api=why)
            yield last


async def _metrics(url: str, key: str) -> tuple[str | None, str]:
    try:
        status, text = await get(f"{url}/metrics", {"Authorization": f"Bearer {key}"} if key else {})
    except (OSError, ValueError):  # the last: it is no URL
        return None, f"{url} does not answer"
    if status == 200:
        return text, ""
    remedy = "; set PUSHSVC_KEY to a key with the scope admin" if status in (401, 403) else ""
    return None, f"{url}/metrics answers {status}{remedy}"


async def _follow(looks: AsyncIterator[ServiceFigures], *, json: bool) -> None:
    if json or not sys.stdout.isatty():
        import msgspec

        async for look in looks:
            print(msgspec.json.encode(look).decode() if json else plain(look), flush=True)
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        async for look in looks:
            live.update(_picture(look, live.console.width), refresh=True)


def summary(look: ServiceFigures) -> list[str]:
    """Return the figures over all apps as a few lines."""
    lanes = ", ".join(f"{count:,} {lane}" for lane, count in look.pending.items())
    schedules = f"{look.schedules:,} {'push' if look.schedules == 1 else 'pushes'}"
    scheduled = f"{look.scheduled:,} {'delivery' if look.scheduled == 1 else 'deliveries'}"
    lines = [
        f"queued    {lanes}; {look.retrying:,} of these waiting to retry",
        f"scheduled {schedules} ({scheduled}; audiences are counted when due)",
        f"rates     accepted {_number(look.accepted_rate)}/s, sent {_number(look.sent_rate)}/s",
        f"dead      {counted(sum(look.dead_letters.values()), 'dead letter')}",
    ]
    if look.counted is not None and look.limit:
        part = f"{look.counted / look.limit:.0%}"
        lines.append(f"limit     {look.counted:,} of {look.limit:,} deliveries ({part}), scheduled ones included")
    if look.connections:
        gateways = {name for each in look.connections.values() for name in each}
        live = f"{counted(_online(look), 'connection')}, {counted(len(gateways), 'gateway')}"
        lines.append(f"live      {live}; {look.awaiting:,} waiting for devices")
    lines += [f"held      {route}: {why}" for route, why in look.held.items()]
    lines += [f"unserved  {what}: {why}" for what, why in look.unserved.items()]
    lines += [f"frozen    {route}: {why}" for route, why in look.frozen.items()]
    lines += [f"webhook   {app}: {trouble}" for app, trouble in look.webhooks.items()]
    others = [each for each in look.conditions if each.kind in OTHERS]
    lines += [f"{OTHERS[each.kind]:<9} {each.what}: {each.text}" for each in others]
    if look.api:
        lines.append(f"counters  missing: {look.api}")
    return lines


def folded(line: str, width: int) -> str:
    """Return a line of the summary, folded to a terminal, with what follows below its text."""
    return textwrap.fill(line, width, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)


def plain(look: ServiceFigures) -> str:
    """Return a sample as one line, for a pipe."""
    held = "".join(f" held={route}:{why}" for route, why in look.held.items())
    held += "".join(f" frozen={route}" for route in look.frozen)
    held += "".join(f" unserved={what}" for what in look.unserved)
    held += "".join(f" webhook={app}" for app in look.webhooks)
    online = f" connections={_online(look)} awaiting={look.awaiting}" if look.connections else ""
    lanes = " ".join(f"{lane}={count}" for lane, count in look.pending.items())
    return (
        f"{lanes} retrying={look.retrying} scheduled={look.scheduled} schedules={look.schedules}"
        f" accepted/s={_number(look.accepted_rate)} sent/s={_number(look.sent_rate)}"
        f" dead={sum(look.dead_letters.values())}{online}{held}"
    )


def rows(look: ServiceFigures) -> list[list[str]]:
    """Return a table row for each route."""
    return [
        [
            route.app,
            route.platform,
            *(f"{route.pending.get(lane, 0):,}" for lane in ("urgent", "normal", "bulk")),
            f"{route.retrying:,}",
            str(route.consumers),
            _number(route.sent_rate),
            *("-" if look.api else f"{route.outcomes[name]:,}" for name in OUTCOMES),
            route.held,
        ]
        for route in look.routes
    ]


def _online(look: ServiceFigures) -> int:
    return sum(sum(each.values()) for each in look.connections.values())


def _number(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:,.0f}"


def _picture(look: ServiceFigures, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from ..tables import table

    return Group(
        *(Text(folded(line, width), style="bold red" if line.startswith(ALARMS) else "") for line in summary(look)),
        table(SHOWN, [row[:-1] for row in rows(look)], width),
    )
