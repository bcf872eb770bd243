"""`POST /v1/push/batch`: many different pushes in one body, as a JSON array or one document a line. Pure. Each push is
independent: a refused one has its problem document in its place, and the others are accepted. Only a body that cannot
be split into documents, or has none or more than `MOST`, is refused as a whole."""

from __future__ import annotations

import re
from itertools import islice
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...bodies import parse
from ...errors import Fault, InvalidRequest, RequestError
from ...model.push import PushState
from ...problems import Problem, ProblemFault, problem
from ..http.problems import wait_of

MOST: Final = 1000
NDJSON: Final = "application/x-ndjson"

_array = msgspec.json.Decoder(list[Raw]).decode
_lines: Final = re.compile(rb"^[ \t\r]*+[^ \t\r\n][^\n]*", re.MULTILINE).finditer
"""Each line that is not empty."""


class BatchItem(Struct, frozen=True, omit_defaults=True):
    """The result of one push: `status` 202 with its id, or the status of its `error`."""

    status: int
    id: Annotated[str | None, Meta(description="A UUIDv7.")] = None
    state: PushState | None = None
    deliveries: int | None = None
    unreached: Annotated[int | None, Meta(description="The same as for a single push.")] = None
    error: Problem | None = None
    warnings: Annotated[list[ProblemFault] | None, Meta(description="The same as for a single push.")] = None


class BatchResults(Struct, frozen=True):
    """One result a push, in the order of the request."""

    results: list[BatchItem]


def refused(error: RequestError, instance: str | None = None) -> BatchItem:
    """Return the result of a refused push. `instance` is the id of an error that is in the log."""
    return BatchItem(error.status, error=problem(error, instance=instance, retry_after=wait_of(error)))


def documents(body: bytes, *, lines: bool) -> list[bytes]:
    """Return the bytes of each push document; empty lines do not count. Raises `MalformedBody` for a body that is not
    JSON, `InvalidRequest` where it is not an array, or an empty or too long one."""
    found: list[bytes] | list[Raw]
    if lines:
        found = [line[0] for line in islice(_lines(body), MOST + 1)]
    else:
        try:
            found = _array(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            parse(body)
            message = f"expected a list of push documents, or `Content-Type: {NDJSON}` with one document a line"
            raise InvalidRequest(faults=[Fault("$", message)]) from None
    if not 1 <= len(found) <= MOST:
        has = f"more than {MOST:,}" if found else "no"
        raise InvalidRequest(faults=[Fault("$", f"has {has} pushes; one call may have 1 to {MOST:,}")])
    return [bytes(each) for each in found]
