"""The rows of the calls about pushes and their feedback."""

from __future__ import annotations

from typing import Final

from ...errors import Conflict, Gone, NotFound
from ...model.delivery import ENDS
from ..answers import Accepted, Deliveries, FeedbackPage, Status
from ..call import CURSOR, LIMIT, Answer, Document, rows
from ..http.exchange import Request
from ..http.idempotency import PARAM as IDEMPOTENCY_KEY
from ..http.params import PathParam, QueryParam
from ..http.prefer import PARAM as PREFER
from .batch import NDJSON, BatchResults, documents
from .batch_calls import post_batch, repeat_batch
from .calls import cancel_push, get_deliveries, get_feedback, get_push, post_push, repeat_push
from .document import Draft, PushDocument, read
from .ids import UUID


def _push_id(text: str) -> str:
    push_id = text.lower()
    if not UUID.fullmatch(push_id):
        raise NotFound("No push has this id; ids are UUIDs.")
    return push_id


PUSH_ID: Final = PathParam("id", "The id of the push.", {"type": "string", "format": "uuid"}, _push_id)


def _read_push(body: bytes, request: Request) -> Draft:
    return read(body, request.app.rules, request.now)


def _read_batch(body: bytes, request: Request) -> list[bytes]:
    return documents(body, lines=request.lines)


_row: Final = rows()

CALLS: Final = (
    _row(
        *("POST /v1/push", "post_push", Document(PushDocument, _read_push, post_push, again=repeat_push)),
        "Send one push to one or many targets.",
        Answer(
            202,
            "The push is stored and will be sent.",
            Accepted,
            headers=(("Location", "The path of its status document."),),
            no_store=False,
        ),
        also=(
            Answer(
                200,
                "With `Prefer: wait`: every delivery has ended. The status document.",
                Status,
                headers=(("Preference-Applied", "`wait=N`."), ("Content-Location", "The path of its status document.")),
            ),
        ),
        description=(
            "Answers only after the push is stored in Redis. A push is accepted as a whole or not at all. The payload "
            "limits of the providers are checked first. A token that occurs twice in one push gets one delivery. With "
            "`send_at`, the push is `scheduled` until that time."
        ),
        scopes=("push",),
        headers=(IDEMPOTENCY_KEY, PREFER),
        limited=True,
    ),
    _row(
        *(
            "POST /v1/push/batch",
            "post_batch",
            Document(PushDocument, _read_batch, post_batch, again=repeat_batch, lines=NDJSON),
        ),
        "Send up to 1,000 different pushes.",
        Answer(200, "The result of each push, in the order of the request.", BatchResults),
        description=(
            "The whole body has at most `server.body_limit` bytes, 4 MiB by default: some 4,000 for each of 1,000 "
            "pushes. Each push is judged separately: valid pushes are accepted, and each invalid one has a problem "
            "document in its place, with 429 and 503 also when to send it again (`retry_after`). An `Idempotency-Key` "
            "covers the whole call, whose valid pushes are then accepted together or not at all: 429 for the call "
            "while the queue has no room for all of them, 413 if they can never fit."
        ),
        scopes=("push",),
        headers=(IDEMPOTENCY_KEY,),
        limited=True,
    ),
    _row(
        *("GET /v1/push/{id}", "get_push", get_push),
        "Get the status of a push.",
        Answer(200, "The status document.", Status),
        scopes=("push", "admin"),
        names=(PUSH_ID,),
        raises=(NotFound,),
    ),
    _row(
        *("GET /v1/push/{id}/deliveries", "get_deliveries", get_deliveries),
        "List how the deliveries of a push ended.",
        Answer(200, "A page of deliveries, in the order of the request.", Deliveries),
        description=(
            "Lists the deliveries that did not end as `sent`; for pushes of up to 1,000 deliveries, all of them. A "
            "push that was cancelled before its `send_at` has none, because no delivery was started."
        ),
        scopes=("push", "admin"),
        params=(QueryParam("outcome", "Only deliveries with this outcome.", options=ENDS), CURSOR, LIMIT),
        names=(PUSH_ID,),
        raises=(NotFound,),
    ),
    _row(
        *("DELETE /v1/push/{id}", "cancel_push", cancel_push),
        "Cancel the deliveries of a push that have not been sent.",
        Answer(200, "The status document after the cancellation.", Status),
        description=(
            "Answers when every dispatcher has stopped working on the push, after two seconds at most. A delivery that "
            "is in flight at that moment stays `queued`, and the push `sending`, until the provider has answered; all "
            "other deliveries are `cancelled`. Deliveries of a dispatcher that does not respond within this time keep "
            "their state until it responds or another dispatcher takes them over."
        ),
        scopes=("push", "admin"),
        names=(PUSH_ID,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("GET /v1/feedback", "get_feedback", get_feedback),
        "List tokens that the providers reported as dead or suspect.",
        Answer(200, "A page of events, in order.", FeedbackPage),
        description=(
            "Store the `cursor` and pass it as `after` to continue where the last page ended. If events after it have "
            "been removed since, because they are older than `queue.feedback_retention`, `missing_to` says so."
        ),
        scopes=("feedback", "admin"),
        params=(
            QueryParam("after", "The `cursor` of the previous page; if left out, from the oldest event on."),
            LIMIT,
        ),
        raises=(Gone,),
    ),
)
