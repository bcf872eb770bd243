"""`POST /v1/push/batch`: many different pushes in one body, a JSON array or one document a line. Pure.

Each push stands for itself: one that is refused has its problem document in its place, and the others are accepted.
Only a body that cannot be taken apart, or that holds none or more than `MOST`, is refused as a whole.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...errors import Fault, InvalidRequest, RequestError
from ...model.push import PushState
from ...problems import Problem, ProblemFault, problem
from ..http.refusal import parse

MOST: Final = 1000
NDJSON: Final = "application/x-ndjson"

_array = msgspec.json.Decoder(list[Raw]).decode


class BatchItem(Struct, frozen=True, omit_defaults=True):
    """What became of one push: `status` 202 with its id, or the status of its `error`."""

    status: int
    id: Annotated[str | None, Meta(description="A UUIDv7.")] = None
    state: PushState | None = None
    deliveries: int | None = None
    unreached: Annotated[int | None, Meta(description="As that of a single push.")] = None
    error: Problem | None = None
    warnings: Annotated[list[ProblemFault] | None, Meta(description="As those of a single push.")] = None


class BatchResults(Struct, frozen=True):
    """One result a push, in the order of the request."""

    results: list[BatchItem]


def refused(error: RequestError) -> BatchItem:
    """The result of a push that was not accepted."""
    return BatchItem(error.status, error=problem(error))


def documents(body: bytes, *, lines: bool) -> list[bytes]:
    """The bytes of each push document; empty lines do not count.

    Raises `MalformedBody` for what is no JSON, `InvalidRequest` for no array, an empty one, or too many.
    """
    if lines:
        found = [line for line in body.split(b"\n") if line.strip(b" \t\r")]
    else:
        try:
            found = [bytes(item) for item in _array(body)]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            parse(body)
            message = f"expected a list of push documents, or `Content-Type: {NDJSON}` and one a line"
            raise InvalidRequest(faults=[Fault("$", message)]) from None
    if not 1 <= len(found) <= MOST:
        raise InvalidRequest(faults=[Fault("$", f"holds {len(found):,} pushes, 1 to {MOST:,} are taken in one call")])
    return found
