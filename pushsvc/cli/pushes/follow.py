"""Follow a push until it has ended: a progress bar at a terminal, a line for each change when piped."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from ...client import Refused, Unreachable
from ...client.retries import PASSING
from ...model.push import JsonObject
from ..operator.calls import ApiCalls, push_path
from ..output import counts_line, note_interrupt
from ..process import print_message
from ..progress import ChangedLines, open_bars

FIRST_LOOK, LAST_LOOK = 0.1, 1.0
"""Seconds between two requests. Short pushes end at once; long ones need no more than one request a second."""
PATIENCE = 60
"""Requests that may fail in a row before the command gives up. A server that restarts is back sooner."""

WAITS: Final = 3
"""Looks in a row at which a push waits for the same, before this is reported."""
STILL: Final = 10
"""Looks in a row at which nothing has moved and no reason is known, before this is reported."""


def ended(status: JsonObject) -> bool:
    """Return whether the status is final."""
    return status["state"] in ("done", "cancelled") and not (
        status["counts"].get("queued") or status["counts"].get("retrying")
    )


def verdict(status: JsonObject, *, quiet: bool = False) -> bool:
    """Return whether a followed push counts as a success, because something was sent.

    Prints a note if no device matched, unless `quiet`.
    """
    counts = status["counts"]
    if not counts.get("total") and not quiet:
        print_message("No device matched `to`, so nothing was sent.")
    return bool(counts.get("sent"))


async def follow(api: ApiCalls, push_id: str, *, quiet: bool = False) -> JsonObject:
    """Poll the status until the push has ended, show each change, and return the last status document.

    Raises `Refused` when the server refuses, `Unreachable` when it is away for longer than a restart takes.
    """
    pause, failures = FIRST_LOOK, 0
    before: JsonObject = {}
    waits: dict[str, int] = {}
    reported: set[str] = set()
    hint = f"the push continues; `pushsvc cancel {push_id}` cancels what has not been sent"
    lines = ChangedLines(quiet=quiet)
    with note_interrupt(lambda: hint), open_bars(sys.stdout, "{task.fields[counts]}", "elapsed", quiet=quiet) as bars:
        task = bars.add_task("sending", total=None, counts="")
        while True:
            try:
                status = await api.document("GET", push_path(push_id))
            except (Refused, Unreachable) as error:
                failures += 1
                if failures >= PATIENCE or (isinstance(error, Refused) and error.status not in PASSING):
                    raise
                await asyncio.sleep(LAST_LOOK)
                continue
            failures = 0
            bars.update(task, **_bar(status))
            lines.show(_line(status))
            if ended(status):
                return status
            reasons = waits_for(status, before)
            waits = {what: waits.get(what, 0) + 1 for what in reasons}
            for what, looks in waits.items():
                if looks >= (WAITS if what else STILL) and what not in reported and not quiet:
                    reported.add(what)
                    print_message(reasons[what])
            before = status
            await asyncio.sleep(pause)
            pause = min(LAST_LOOK, pause * 1.5)


def waits_for(status: JsonObject, before: JsonObject) -> dict[str, str]:
    """Return what an open push waits for, by what it is: a route that is held, devices (`live`), or what is not known
    (empty) where nothing has changed since the status `before`."""
    if status["state"] == "scheduled":
        return {}
    counts, waiting = status["counts"], (status.get("live") or {}).get("waiting", 0)
    found = {route: f"held: {route}: {why}" for route, why in (status.get("held") or {}).items()}
    if waiting and waiting >= counts.get("queued", 0) + counts.get("retrying", 0):
        found["live"] = (
            f"{'1 delivery waits for its device' if waiting == 1 else f'{waiting:,} deliveries wait for their devices'}"
            ": one that is offline gets the push once it is online again, until the push expires (`ttl`)"
        )
    if not found and all(status[name] == before.get(name) for name in ("state", "counts")):
        found[""] = "nothing has changed for a while: `pushsvc stats` names what does not send, and the remedy"
    return found


def _line(status: JsonObject) -> str:
    """Return the state and the counts. The counts are left out while the audience is being expanded."""
    state, counts = str(status["state"]), status["counts"]
    if state in ("expanding", "scheduled") and not counts.get("total"):
        return f"{state}: its audience is {'being looked up' if state == 'expanding' else 'looked up when due'}"
    due = f", due at {status['send_at']}" if state == "scheduled" and "send_at" in status else ""
    return f"{state}: {counts_line(counts)}{due}"


def _bar(status: JsonObject) -> dict[str, Any]:
    """Return the fields of the bar. While an audience is being expanded, the total is unknown."""
    counts = status["counts"]
    return {
        "description": str(status["state"]),
        "total": None if status["state"] == "expanding" else counts["total"] or None,
        "completed": counts["total"] - counts.get("queued", 0) - counts.get("retrying", 0),
        "counts": counts_line(counts),
    }
