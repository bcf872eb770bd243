"""One push as an operator sees it: when what happened, what each provider was sent, and how to send it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct, structs

from ...errors import NotFound
from ...model.devices import ByDevices, ByTopic, ByUsers, ByWhere, ToAll
from ...model.documents import Time
from ...model.instants import instant
from ...model.live import RESERVED
from ...model.push import MAX_COLLAPSE, MAX_TTL, Notification, Platform, Push
from ...model.routing import CARRIERS, platform_of
from ...model.status import ROWS_FOR_ALL, DeliveryRow
from ...ports.admin import PreviewedMessage
from ...ports.live import Live
from ...ports.pushes import KeptPush, PushStore
from ...rules.channels import LIVE
from ..http.exchange import Reply, Request
from ..ports import ApiPorts
from .document import PushRow, shown_push

NEUTRAL: Final[Mapping[str, Any]] = {
    "notification": Notification,
    "data": dict[str, str],
    "collapse": Annotated[str, Meta(max_length=MAX_COLLAPSE)],
}
"""The fields of a push document that the content of the live channel has too, with their types there: an override may
have put anything else in their place."""
DEFAULTS: Final = (MAX_TTL, "auto")
"""The values of `ttl` and `via` that a push has without them."""
LOST: Final = ("priority", "push_type", "silent", "ack_within")
"""Those that a copy of that content never has, beside the overrides of providers."""


class PushMoment(Struct, frozen=True):
    """Something that happened to a push."""

    what: Annotated[
        Literal["accepted", "due", "first_end", "first_failure", "replayed", "last_end", "done", "cancelled"],
        Meta(
            description="`first_end` and `last_end` are of deliveries, of pushes that have a row of each. A delivery "
            "that was replayed still counts for `first_end` and `first_failure`, and for `last_end` once it has ended "
            "again; `replayed` is the last time."
        ),
    ]
    at: Time


class AdminPush(PushRow, frozen=True, kw_only=True):
    """A push with its times and what is left of its content."""

    timeline: Annotated[list[PushMoment], Meta(description="In the order of time.")]
    to: Annotated[
        dict[str, Any] | None,
        Meta(
            description="The receivers, as in a push document; null where they are not known any more. Of an ended "
            "push to users, or to those who match an expression, these are the devices that it went to."
        ),
    ]
    messages: Annotated[
        list[PreviewedMessage],
        Meta(
            description="What each provider was or is sent, as far as its content is still kept; that of a push to up "
            "to 32 targets may not be found in a long queue."
        ),
    ]
    copy: Annotated[
        dict[str, Any] | None,
        Meta(
            description="A push document that sends it again, without `to` where that is null; null without content. "
            "The copy of a dry run is one, and so is that of a push of which this is not known any more."
        ),
    ]
    copy_lacks: Annotated[
        list[str],
        Meta(
            description="Fields of the push document that the push may have had and `copy` does not repeat, because "
            "they are not known any more."
        ),
    ]


async def get_admin_push(ports: ApiPorts, request: Request) -> Reply:
    """Return a push with what is left of its content."""
    app, push_id = request.app, request.params["id"]
    live = None if app.live is None else ports.live
    routes = [route for route, _ in app.accounts]
    found = await admin_push(app.name, push_id, routes, ports.pushes, live, ports.admin.preview)
    if found is None:
        raise NotFound(f"There is no push {push_id} of this app; statuses are kept for a limited time.")
    return Reply(found)


async def admin_push(
    app: str,
    push_id: str,
    routes: Sequence[Platform],
    pushes: PushStore,
    live: Live | None,
    preview: Callable[[Push], list[PreviewedMessage]],
) -> AdminPush | None:
    """Return a push with what is left of its content, or None where there is no such push. `routes` are those that the
    app has, `live` is given where it has the live channel."""
    kept = await pushes.kept(app, push_id)
    if kept is None:
        return None
    status = kept.listed.status
    page = await pushes.deliveries(app, push_id, outcome=None, cursor="", limit=ROWS_FOR_ALL)
    rows = page[0] if page is not None and status.counts.total <= ROWS_FOR_ALL else []
    messages = preview(_push_of(kept, routes))
    content = None if live is None else (await live.contents(app, [push_id])).get(push_id)
    to, exact = _receivers(kept, rows)
    shown = structs.asdict(shown_push(kept.listed))
    copy, lacks = _copy(kept, messages, content, to, [platform_of(route) for route in routes if route not in CARRIERS])
    if copy is not None and not exact:
        lacks = ["to", *lacks]
    timeline = _timeline(kept, rows)
    return AdminPush(**shown, timeline=timeline, to=to, messages=messages, copy=copy, copy_lacks=lacks)


def _push_of(kept: KeptPush, routes: Sequence[Platform]) -> Push:
    """Return the push as far as its content is left, for the routes that the app still has."""
    status = kept.listed.status
    messages = {
        # What its instants were when it was rendered: when it expires is not kept.
        route: structs.replace(message, dated="")
        for route, message in kept.messages.items()
        if route in routes or route in CARRIERS
    }
    lane, dry_run = kept.listed.lane or "normal", bool(kept.dry_run)
    # Its deliveries are not counted, as of an audience.
    return Push(
        *(status.id, status.app, lane, status.created_at, status.created_at, messages, {}, dry_run), audience=b"\0"
    )


def _timeline(kept: KeptPush, rows: Sequence[DeliveryRow]) -> list[PushMoment]:
    """Return what happened, in order. A replay has removed the rows of what it sent again, and kept their instant."""
    status = kept.listed.status
    replayed = [] if kept.failed_at is None else [kept.failed_at]
    failures = [*replayed, *(row.at for row in rows if row.outcome == "failed")]
    ends = [row.at for row in rows]
    first = [*replayed, *ends] if status.counts.total <= ROWS_FOR_ALL else []
    moments: list[tuple[Any, int | None]] = [
        ("accepted", status.created_at),
        ("due", status.send_at),
        ("first_end", min(first, default=None)),
        ("first_failure", min(failures, default=None)),
        ("replayed", kept.replayed_at),
        ("last_end", max(ends, default=None)),
    ]
    if status.state in ("done", "cancelled"):
        moments.append((status.state, status.updated_at))
    known = [(what, at) for what, at in moments if at is not None]
    return [PushMoment(what, instant(at)) for what, at in sorted(known, key=lambda each: each[1])]


def _receivers(kept: KeptPush, rows: Sequence[DeliveryRow]) -> tuple[dict[str, Any] | None, bool]:
    """Return `to` as far as it is known, and whether it names the receivers as the push did: of an audience that was
    looked up, the rows have only the devices that were found then."""
    match ByTopic(kept.topic) if kept.topic and kept.audience is None else kept.audience:
        case ByDevices(ids):
            return {"devices": list(ids)}, True
        case ByUsers(users):
            return {"users": list(users)}, True
        case ByTopic(topic):
            return {"topic": topic}, True
        case ByWhere(text):
            return {"where": text}, True
        case ToAll():
            return {"all": True}, True
        case _:
            devices = list(dict.fromkeys(row.device_id for row in rows if row.device_id is not None))
            known = len(rows) == kept.listed.status.counts.total and all(row.device_id is not None for row in rows)
            return ({"devices": devices}, not kept.looked_up) if devices and known else (None, False)


def _copy(
    kept: KeptPush,
    messages: Sequence[PreviewedMessage],
    live: bytes | None,
    to: Mapping[str, Any] | None,
    providers: Sequence[Platform],
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a document that sends the push again, and the fields that it may lack: of its own fields where the live
    channel still has them, otherwise of what each of the `providers` was sent."""
    neutral = live or next((message.body for route, message in kept.messages.items() if route == LIVE), None)
    fields: dict[str, Any]
    if neutral is not None:
        content = msgspec.json.decode(neutral)
        fields = {name: content[name] for name, kind in NEUTRAL.items() if _fits(content.get(name), kind)}
        rest = {name: value for name, value in content.items() if name not in fields and name not in RESERVED}
        if rest:
            fields["overrides"] = {LIVE: rest}
    else:
        fields = {"overrides": {each.platform: each.override for each in messages if bytes(each.override) != b"null"}}
        if not fields["overrides"]:
            return None, []
    known: dict[str, Any] = {"lane": kept.listed.lane, "ttl": kept.ttl, "via": kept.via}
    lacks = [name for name, value in [*known.items(), ("dry_run", kept.dry_run)] if value is None]
    document = {
        **({} if to is None else {"to": dict(to)}),
        **fields,
        **{name: value for name, value in known.items() if value not in (None, *DEFAULTS)},
    }
    # Unless it is known that something was sent, the copy sends nothing.
    if kept.dry_run is not False:
        document["dry_run"] = True
    if neutral is None:
        return document, lacks
    overrides = [f"overrides.{each}" for each in dict.fromkeys(providers)] if "overrides" in fields else ["overrides"]
    return document, [*lacks, *LOST, *overrides]


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
