"""`pushsvc pushes`: list pushes and schedules, show one, and cancel it.

It asks the API of a running service where a key is known, or else reads the store of the configuration.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, get_args

import msgspec
import typer

from ...errors import NotFound
from ...model.push import LANES, JsonObject, PushState
from ...ports.pushes import PushFilter
from ...wording import did_you_mean
from ..access import Key, Url
from ..instants import age_of, instant_option
from ..operator.operator import Operator, PushTrouble, operate
from ..output import Json, command_group, counted, counts_line, print_items, print_json, print_table
from ..process import print_message
from .failed import AppName, checked_id

pushes = command_group("List pushes and schedules, show one, and cancel it.")

LIST: Final = ("accepted", "id", "state", "sent", "deliveries", "lane", "key", "app")
SCHEDULES: Final = ("due", "id", "deliveries", "lane", "key", "app")
AGE: Final = "age"
"""A column that only people see, in the first place: it is short, so that `accepted` can be left out."""
LESSER: Final = ("key", "app", "accepted", "lane")
"""The columns of a list that a narrow terminal does without, the first to go first."""
SENT: Final = ("route", "bytes", "limit", "to")
ENDS: Final = ("deliveries", "outcome", "platform", "reason")
MOMENTS: Final = {
    "first_end": "first delivery ended",
    "first_failure": "first delivery failed",
    "replayed": "last replayed",
    "last_end": "last delivery ended",
}
"""The texts for moments whose names do not explain themselves."""
STATES: Final = get_args(PushState)

Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the push.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.", metavar="N")]


@pushes.command("list")
def list_pushes(
    context: typer.Context,
    app: AppName = "",
    state: Annotated[str, typer.Option("--state", help=f"One of {', '.join(STATES)}.", metavar="STATE")] = "",
    lane: Annotated[str, typer.Option("--lane", help=f"One of {', '.join(LANES)}.", metavar="LANE")] = "",
    collapse: Annotated[str, typer.Option("--collapse", help="Only pushes with this `collapse`.")] = "",
    by: Annotated[
        str, typer.Option("--by", help="Only those that were posted with the API key of this name.", metavar="NAME")
    ] = "",
    since: Annotated[
        str, typer.Option("--since", help="Only those accepted since this time, or 2h.", metavar="TIME")
    ] = "",
    until: Annotated[str, typer.Option("--until", help="Only those accepted before this time.", metavar="TIME")] = "",
    limit: Limit = 100,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """List pushes, the newest first, while their statuses are kept."""
    for option, value, known in (("--state", state, STATES), ("--lane", lane, LANES)):
        if value and value not in known:
            raise typer.BadParameter(f"{option}: unknown {value!r}; {did_you_mean(value, known)}")
    span = instant_option(since, option="--since"), instant_option(until, option="--until")
    narrow = {"state": state or None, "lane": lane or None, "collapse": collapse, "key": by}
    which = msgspec.convert({**narrow, "since": span[0], "until": span[1]}, PushFilter)
    _print(operate(context, app, url, key, lambda operator: operator.pushes(which, limit)), LIST, json=json)


@pushes.command("schedules")
def schedules(
    context: typer.Context, app: AppName = "", limit: Limit = 100, url: Url = "", key: Key = "", json: Json = False
) -> None:
    """List the pushes that wait for their time, the next first."""
    _print(operate(context, app, url, key, lambda operator: operator.schedules(limit)), SCHEDULES, json=json)


@pushes.command("show")
def show(
    context: typer.Context, push_id: Id, app: AppName = "", url: Url = "", key: Key = "", json: Json = False
) -> None:
    """Show a push: its times, and why deliveries were not sent.

    Also where its messages go and how large they are, as far as they are kept. The reasons are those of the first 1,000
    deliveries that have ended; `pushsvc status ID --deliveries` lists each.
    """
    wanted = checked_id(push_id)

    async def look(operator: Operator) -> tuple[JsonObject | None, PushTrouble | None]:
        found = await operator.push(wanted)
        return found, None if found is None or json else await operator.trouble(wanted)

    found, trouble = operate(context, app, url, key, look)
    if found is None:
        raise _unknown(push_id)
    if json:
        print_json(found)
        return
    print(f"{found['id']}  {found['state']}")
    print(counts_line(found["counts"]))
    for route, why in ({} if trouble is None else trouble.held).items():
        print(f"held: {route}: {why}")
    names = ("app", "lane", "key", "trace_id")
    print_table(
        ("field", "value"),
        [
            *([name.replace("_", " "), str(found[name])] for name in names if found.get(name)),
            *([MOMENTS.get(each["what"], each["what"]), each["at"]] for each in found["timeline"]),
            *([["to", msgspec.json.encode(found["to"]).decode()]] if found["to"] is not None else []),
        ],
        prose=("value",),
    )
    if trouble is not None and trouble.ends:
        print_table(ENDS, [[f"{count:,}", *which] for which, count in trouble.ends.items()])
    if found["messages"]:
        print_table(SENT, [_sent(each) for each in found["messages"]])
    else:
        print_message(
            "No content: it is kept until the last delivery has ended, and after that only with dead letters."
        )


@pushes.command("cancel")
def cancel(
    context: typer.Context, push_id: Id, app: AppName = "", url: Url = "", key: Key = "", json: Json = False
) -> None:
    """Cancel what has not been sent of a push, and show its status."""
    wanted = checked_id(push_id)
    document = operate(context, app, url, key, lambda operator: operator.cancel(wanted), changes=True)
    if document is None:
        raise _unknown(push_id)
    from .status import print_status  # which brings the HTTP client

    print_status(document, json=json)


def _unknown(push_id: str) -> NotFound:
    return NotFound(f"there is no push {push_id}; statuses are kept for a limited time")


def _print(found: Sequence[JsonObject], titles: Sequence[str], *, json: bool) -> None:
    if json:
        print_items(found)
        return
    if "accepted" in titles and sys.stdout.isatty():
        titles = (AGE, *titles)
    rows = [[_cell(row, title) for title in titles] for row in found]
    print_table(titles, rows, lesser=LESSER, none=counted(0, "push", "pushes"))


def _cell(row: Mapping[str, Any], title: str) -> str:
    counts = row["counts"]
    match title:
        case "age":
            return age_of(row["created_at"])
        case "accepted":
            return _second(row["created_at"])
        case "due":
            return _second(row["send_at"])
        case "sent":
            return f"{counts['sent']:,}"
        case "deliveries":  # an audience is counted when it is due
            return f"{counts['total']:,}" if counts["total"] else ""
    return row[title] or ""


def _second(instant: str) -> str:
    """Return an instant without its milliseconds, so that a row fits more terminals."""
    return f"{instant.partition('.')[0]}Z"


def _sent(message: Mapping[str, Any]) -> list[str]:
    limit = message["limit"]
    where = f"{message['method']} {message['path']}".strip()
    return [message["route"], f"{message['bytes']:,}", "" if limit is None else f"{limit:,}", where]
