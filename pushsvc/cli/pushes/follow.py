"""Follow a push until it has ended: a progress bar at a terminal, a line for each change when piped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from ...client import Refused, Unreachable
from ...model.push import JsonObject
from ..client import Client
from ..output import counts_line, going_on

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_LOOK, LAST_LOOK = 0.1, 1.0
"""Seconds between two requests. Short pushes end at once; long ones need no more than one request a second."""
PATIENCE = 60
"""Requests that may fail in a row before the command gives up. A server that restarts is back sooner."""


class Show(Protocol):
    def __call__(self, status: JsonObject) -> None: ...


def ended(status: JsonObject) -> bool:
    """Return whether the status is final."""
    return status["state"] in ("done", "cancelled") and not (
        status["counts"].get("queued") or status["counts"].get("retrying")
    )


def verdict(status: JsonObject, *, quiet: bool = False) -> bool:
    """Return whether a followed push counts as a success, because something was sent.

    Prints a note if the push reached no device, unless `quiet`.
    """
    counts = status["counts"]
    if not counts.get("total") and not quiet:
        typer.echo("the push reached no device: does anyone fit what `to` names?", err=True)
    return bool(counts.get("sent"))


async def follow(client: Client, push_id: str, *, quiet: bool = False) -> JsonObject:
    """Poll the status until the push has ended, show each change, and return the last status document.

    Raises `Refused` when the server refuses, `Unreachable` when it is away for longer than a restart takes.
    """
    pause, failures = FIRST_LOOK, 0
    told = f"the push goes on; `pushsvc cancel {push_id}` cancels what has not been sent"
    with going_on(lambda: told), _display(quiet) as show:
        while True:
            try:
                status = await client.status(push_id)
            except (Refused, Unreachable) as error:
                failures += 1
                if failures >= PATIENCE or (isinstance(error, Refused) and error.status not in (429, 503)):
                    raise
                await asyncio.sleep(LAST_LOOK)
                continue
            failures = 0
            show(status)
            if ended(status):
                return status
            await asyncio.sleep(pause)
            pause = min(LAST_LOOK, pause * 1.5)


def _display(quiet: bool) -> AbstractContextManager[Show]:
    if quiet:
        return _nothing()
    return _bar() if sys.stdout.isatty() else _lines()


@contextmanager
def _nothing() -> Iterator[Show]:
    yield lambda status: None


def _line(status: JsonObject) -> str:
    """Return the state and the counts. The counts are left out while the audience is being expanded."""
    state, counts = str(status["state"]), status["counts"]
    if state in ("expanding", "scheduled") and not counts.get("total"):
        return f"{state}: its audience is looked up {'now' if state == 'expanding' else 'then'}"
    return f"{state}: {counts_line(counts)}"


@contextmanager
def _lines() -> Iterator[Show]:
    last = ""

    def show(status: JsonObject) -> None:
        nonlocal last
        line = _line(status)
        if line != last:
            print(line, flush=True)
            last = line

    yield show


@contextmanager
def _bar() -> Iterator[Show]:
    with _progress() as progress:
        task = progress.add_task("sending", total=None, counts="")

        def show(status: JsonObject) -> None:
            counts = status["counts"]
            waiting = counts.get("queued", 0) + counts.get("retrying", 0)
            # While an audience is being expanded, the total is unknown.
            total = None if status["state"] == "expanding" else counts["total"] or None
            progress.update(
                task,
                description=str(status["state"]),
                total=total,
                completed=counts["total"] - waiting,
                counts=counts_line(counts),
            )

        yield show


def _progress() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counts]}", markup=False),
        TimeElapsedColumn(),
    )
