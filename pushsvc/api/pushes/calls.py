"""The handlers for one push, and for the feedback to all of them."""

from __future__ import annotations

import time
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from ... import telemetry
from ...errors import Fault, InvalidRequest, NotFound
from ...model.status import ROWS_FOR_ALL, PushStatus
from ...ports.live import EventCounts
from .. import answers
from ..http import prefer
from ..http.exchange import Reply, Request
from ..http.problems import AnswerUnread
from ..ports import ApiPorts
from .audiences import look_up
from .document import Draft
from .holds import holds_of
from .preparing import prepare

_NAMES: Final = telemetry.traces.Names(
    ("pushsvc.request_id", "pushsvc.push_id"), ("pushsvc.accept_ms", telemetry.traces.DELIVERIES)
)


async def post_push(ports: ApiPorts, request: Request, draft: Draft) -> Reply:
    """Accept a push: 202 once Redis has it, or 200 once it has ended, for a caller that waits for that."""
    app, once = request.app, request.once
    push, warnings = prepare(ports, request, draft)
    unreached = 0
    if push.audience or not push.targets.keys() <= push.messages.keys():
        push, (unreached, found) = await look_up(ports.registry, push, app)
        warnings += found
    total = push.total
    answer = answers.accepted(push.id, push.first_state, None if push.audience else total, unreached, warnings)
    if ports.backlog is not None:
        await ports.backlog.admit(app.name, total, push.lane)
    began = time.monotonic()
    if once is None:
        await ports.pushes.accept(push)
    elif (kept := await ports.pushes.accept_once([push], key=once.key, record=once.record(answer))) is not None:
        return await repeat_push(ports, request, once.first_answer(kept))
    if request.span is not None:
        request.span.note(_NAMES, (request.id, push.id), ((time.monotonic() - began) * 1000, total))
    app.count_accepted(total)
    return await _reply(ports, request, push.id, answer)


async def repeat_push(ports: ApiPorts, request: Request, first: bytes) -> Reply:
    """Reply with the first answer, or the status where its push has ended and the caller waits for that."""
    push_id = msgspec.json.decode(first, type=answers.Accepted).id
    return await _reply(ports, request, push_id, first, repeated=True)


async def _reply(ports: ApiPorts, request: Request, push_id: str, accepted: bytes, *, repeated: bool = False) -> Reply:
    """Reply with `accepted` and 202, or with the status and 200 where the caller waits and the push ends in time."""
    path = f"/v1/push/{push_id}"
    seconds: int | None = request.params.get(prefer.HEADER)
    if seconds is None or ports.waits.full:
        return Reply(accepted, 202, {"Location": path}, repeated=repeated)
    status = await ports.waits.until_ended(request.app.name, push_id, seconds, gone=request.gone)
    applied = {prefer.APPLIED: f"wait={seconds}"}
    if status is not None:
        warnings = msgspec.json.decode(accepted, type=answers.Accepted).warnings
        body = answers.status(status, await _events(ports, request, push_id), warnings=warnings)
        return Reply(body, headers={**applied, "Content-Location": path}, repeated=repeated)
    if request.gone():
        raise AnswerUnread
    return Reply(accepted, 202, {"Location": path, **applied}, repeated=repeated)


async def get_push(ports: ApiPorts, request: Request) -> Reply:
    """Return the status of a push."""
    status = _known(request, await ports.pushes.status(request.app.name, request.params["id"]))
    held = await ports.conditions.held() if status.counts.queued or status.counts.retrying else {}
    own = await holds_of(status, held, ports.pushes)
    return Reply(answers.status(status, await _events(ports, request, status.id), own))


async def _events(ports: ApiPorts, request: Request, push_id: str) -> EventCounts | UnsetType:
    """Return what devices have reported about a push; unset where the app has no live channel."""
    if request.app.live is None:
        return UNSET
    (events,) = await ports.live.events(request.app.name, [push_id])
    return events


async def get_deliveries(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of the rows of a push."""
    app, query = request.app.name, request.params
    page = await ports.pushes.deliveries(
        app, query["id"], outcome=query["outcome"], cursor=query["cursor"] or "", limit=query["limit"]
    )
    if page is None:
        raise _no_push(request)
    if query["outcome"] == "sent" and page == ([], None):
        status = await ports.pushes.status(app, query["id"])
        if status is not None and status.counts.total > ROWS_FOR_ALL:
            message = f"only pushes of up to {ROWS_FOR_ALL:,} deliveries have rows of sent ones; see `counts`"
            raise InvalidRequest(faults=[Fault("outcome", message)])
    return Reply(answers.deliveries(*page))


async def cancel_push(ports: ApiPorts, request: Request) -> Reply:
    """Cancel the deliveries of a push that have not been sent."""
    status = _known(request, await ports.pushes.cancel(request.app.name, request.params["id"]))
    return Reply(answers.status(status, await _events(ports, request, status.id)))


async def get_feedback(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of feedback events. A gap before it is counted and logged."""
    app, after = request.app.name, request.params["after"]
    page = await ports.receipts.events(app, after=after or "", limit=request.params["limit"])
    if page.missing_to:
        telemetry.FEEDBACK_GAPS.labels(app, "api").inc()
        log = telemetry.get_logger("intake")
        gap = {"after": after or "", "missing_to": page.missing_to}
        log.warning("feedback_events_missing", app=app, reader="api", request_id=request.id, **gap)
    return Reply(answers.feedback(page, after))


def _known(request: Request, status: PushStatus | None) -> PushStatus:
    if status is None:
        raise _no_push(request)
    return status


def _no_push(request: Request) -> NotFound:
    return NotFound(f"There is no push {request.params['id']} of this app; statuses are kept for a limited time.")
