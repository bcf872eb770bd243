"""The rows of the calls about dead letters and replays."""

from __future__ import annotations

import re
from typing import Final

from ...errors import Conflict, NotFound
from ..call import CURSOR, LIMIT, Answer, Document, rows
from ..http.params import PathParam, QueryParam
from .calls import delete_replay, get_failed, get_replay, no_replay, post_replay
from .document import DeadLetterPage, Replay, ReplayAccepted, ReplayDocument, read_replay

_JOB_ID: Final = re.compile(r"[0-9a-f]{1,40}")


def _job(text: str) -> str:
    if not _JOB_ID.fullmatch(text):
        raise no_replay()
    return text


_JOB: Final = PathParam("job", "The id of the replay.", {"type": "string", "pattern": f"^{_JOB_ID.pattern}$"}, _job)

FILTERS: Final = (
    QueryParam("push", "Only dead letters of this push."),
    QueryParam("platform", "Only those of this platform."),
    QueryParam("reason", "Only those that failed with this reason."),
    QueryParam("since", "Only those that failed at this instant (RFC 3339) or later."),
    QueryParam("until", "Only those that failed before this instant (RFC 3339)."),
)
"""The parameters that `document.read_filter` reads."""

_row: Final = rows("push", "admin")

CALLS: Final = (
    _row(
        *("GET /v1/failed", "get_failed", get_failed),
        "List dead letters: deliveries that failed permanently.",
        Answer(200, "A page of dead letters, oldest first.", DeadLetterPage),
        description="Dead letters are kept for a month, unless configured otherwise, and can be replayed.",
        params=(*FILTERS, CURSOR, LIMIT),
    ),
    _row(
        *(
            "POST /v1/failed/replay",
            "post_replay",
            Document(ReplayDocument, lambda body, _: read_replay(body), post_replay),
        ),
        "Replay dead letters: send them again.",
        Answer(202, "The replay is stored and will run; for a dry run, how many dead letters match.", ReplayAccepted),
        description=(
            "The replay runs in the background, in `pushsvc jobs`. A replayed dead letter becomes a delivery of its "
            "push again: it counts as `retrying` instead of `failed`, is sent with the same ids, and starts again with "
            "all its attempts and its full `ttl`. Dead letters that are added after this call are not replayed, nor "
            "are those of cancelled pushes."
        ),
    ),
    _row(
        *("GET /v1/failed/replay/{job}", "get_replay", get_replay),
        "Get the progress of a replay.",
        Answer(200, "The progress of the replay.", Replay),
        names=(_JOB,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("DELETE /v1/failed/replay/{job}", "delete_replay", delete_replay),
        "Stop a replay.",
        Answer(200, "The progress of the replay. A replay that has ended does not change.", Replay),
        description=(
            "Dead letters that were replayed so far are sent; the others stay dead letters. A step of up to 500 "
            "deliveries that is in progress is still completed."
        ),
        names=(_JOB,),
        raises=(NotFound, Conflict),
    ),
)
