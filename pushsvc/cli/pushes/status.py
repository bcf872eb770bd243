"""`pushsvc status`: show the status of a push, once or until it has ended."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...model.push import JsonObject
from ..access import Access, App, Key, Url, access
from ..operator.calls import ApiPage, open_calls, push_path
from ..operator.operator import paged
from ..output import Json, cell, counts_line, print_json, print_table
from ..process import print_message
from ..running import run
from .follow import follow, verdict

COLUMNS = (
    *("platform", "outcome", "reason", "status", "attempts"),
    *("token_hash", "device_id", "provider_id", "at", "channel"),
)


def status(
    context: typer.Context,
    push_id: Annotated[str, typer.Argument(metavar="ID", help="The id of the push, as printed by `pushsvc send`.")],
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", "--watch", help="Wait until every delivery has ended.")
    ] = False,
    deliveries: Annotated[
        bool, typer.Option("--deliveries", "-d", help="Also list the deliveries that were not sent, with the reason.")
    ] = False,
    url: Url = "",
    key: Key = "",
    app: App = "",
    json: Json = False,
) -> None:
    """Show the status of a push.

    With --follow, exit with 1 if not a single delivery was sent.
    """
    at = access(context.obj, url, key, app)
    run(_status(at, push_id, follow_it=follow_it, deliveries=deliveries, json=json))


async def _status(at: Access, push_id: str, *, follow_it: bool, deliveries: bool, json: bool) -> None:
    async with open_calls(at) as api:
        if follow_it:
            document = await follow(api, push_id, quiet=json)
        else:
            document = await api.document("GET", push_path(push_id))
        pages = api.pages(f"{push_path(push_id)}/deliveries", {}, ApiPage[dict[str, Any]])
        rows = await paged(pages) if deliveries else []
    if json:
        print_json({**document, "deliveries": rows} if deliveries else document)
    else:
        if not follow_it:
            print_status(document)
        if deliveries and rows:
            print_table(COLUMNS, [[cell(row.get(name)) for name in COLUMNS] for row in rows])
        elif deliveries:
            print_message("no delivery to list: none has ended yet" if _open(document) else "no delivery to list")
    if follow_it and not verdict(document, quiet=json):
        raise typer.Exit(1)


def print_status(document: JsonObject, *, json: bool = False) -> None:
    """Print the status document as a few lines, or as JSON."""
    if json:
        print_json(document)
        return
    print(f"{document['id']}  {document['state']}")
    print(counts_line(document["counts"]))
    for name in ("live", "events"):
        counts = document.get(name, {})
        if any(counts.values()):
            print(f"{name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
    for route, why in document.get("held", {}).items():
        print(f"held: {route}: {why}")
    if "trace_id" in document:
        print(f"trace {document['trace_id']}")
    scheduled = f", scheduled for {document['send_at']}" if "send_at" in document else ""
    print(f"created {document['created_at']}{scheduled}, updated {document['updated_at']}")


def _open(document: JsonObject) -> bool:
    """Return whether the push has deliveries that have not ended, or does not know its deliveries yet."""
    counts = document["counts"]
    return bool(counts["queued"] or counts["retrying"]) or document["state"] in ("scheduled", "expanding")
