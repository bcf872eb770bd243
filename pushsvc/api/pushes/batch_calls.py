"""The handler of a batch: each push is prepared separately, and those without fault are accepted together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, TypeAlias

from ... import telemetry
from ...errors import RequestError, StoreUnavailable
from ...model.push import LANES, Push
from ..answers import encode
from ..http.exchange import Reply, Request
from ..http.problems import away, failed
from ..large import LARGE
from ..ports import ApiPorts
from .audiences import look_up
from .batch import BatchItem, BatchResults, refused
from .document import read
from .preparing import prepare

_BREATH: Final = 25
"""Pushes of a batch that are read before other requests run, or fewer that are `LARGE` together."""

_NAMES: Final = telemetry.traces.Names(
    ("pushsvc.request_id",), ("pushsvc.accept_ms", "pushsvc.pushes", telemetry.traces.DELIVERIES)
)

Placed: TypeAlias = tuple[int, Push]
"""A push and its place in the batch."""


async def post_batch(ports: ApiPorts, request: Request, documents: Sequence[bytes]) -> Reply:
    """Accept the pushes of a batch: 200 with the result of each."""
    app, once = request.app, request.once
    pushes, results = await _prepare_all(ports, request, documents)
    if once is not None and pushes:
        # All or none: a stored refusal would be the answer to each repeat.
        total = sum(push.total for _, push in pushes)
        if ports.backlog is not None:
            lane = max((push.lane for _, push in pushes), key=LANES.index)
            await ports.backlog.admit(app.name, total, lane, path="$")
        record = once.record(encode(BatchResults(results)))
        began = time.monotonic()
        kept = await ports.pushes.accept_once([push for _, push in pushes], key=once.key, record=record)
        if kept is not None:
            return await repeat_batch(ports, request, once.first_answer(kept))
        _note(request, began, pushes)
        app.count_accepted(total)
    else:
        await _accept_each(ports, request, await _that_fit(ports, app.name, pushes, results), results)
    return Reply(BatchResults(results), refused=sum(result.status != 202 for result in results))


async def repeat_batch(_: ApiPorts, __: Request, first: bytes) -> Reply:
    """Reply with the first answer."""
    return Reply(first, repeated=True)


async def _prepare_all(
    ports: ApiPorts, request: Request, documents: Sequence[bytes]
) -> tuple[list[Placed], list[BatchItem]]:
    """Return the pushes without fault, and the result of each document if those are accepted."""
    app = request.app
    pushes: list[Placed] = []
    results: list[BatchItem] = []
    held = 0
    for place, document in enumerate(documents):
        held += len(document) + LARGE // _BREATH
        if held >= LARGE:
            await asyncio.sleep(0)
            held = len(document)
        try:
            if len(document) < LARGE:
                draft = read(document, app.rules, request.now)
            else:
                draft = await ports.large.judge(partial(read, document, app.rules, request.now))
            prepared, warnings = prepare(ports, request, draft)
            push, (unreached, found) = await look_up(ports.registry, prepared, app)
        except RequestError as error:
            results.append(refused(error))
        else:
            pushes.append((place, push))
            results.append(
                BatchItem(
                    202,
                    id=push.id,
                    state=push.first_state,
                    deliveries=None if push.audience else push.total,
                    unreached=unreached or None,
                    warnings=warnings + found or None,
                )
            )
    return pushes, results


def _note(request: Request, began: float, pushes: Sequence[Placed]) -> None:
    """Note in the span of the request what was accepted, by a write to Redis that began at this instant."""
    if request.span is not None:
        numbers = ((time.monotonic() - began) * 1000, len(pushes), sum(push.total for _, push in pushes))
        request.span.note(_NAMES, (request.id,), numbers)


async def _that_fit(ports: ApiPorts, app: str, pushes: Sequence[Placed], results: list[BatchItem]) -> Sequence[Placed]:
    """Return the pushes for which the queue has room; the others have their refusal as result."""
    if ports.backlog is None:
        return pushes
    fitting: list[Placed] = []
    deliveries = 0
    for place, push in pushes:
        try:
            await ports.backlog.admit(app, push.total, push.lane, beside=deliveries)
        except RequestError as error:
            results[place] = refused(error)
        else:
            fitting.append((place, push))
            deliveries += push.total
    return fitting


async def _accept_each(ports: ApiPorts, request: Request, pushes: Sequence[Placed], results: list[BatchItem]) -> None:
    """Accept the pushes in one group commit; those that Redis did not store have 503 as result.

    One that fails for another reason, as where a key of its shard has the wrong type, has 500 and is in the log: the
    others may be accepted, and a refusal of the whole batch would have their sender send them twice. Where Redis has
    none of them, the batch is refused.
    """
    began = time.monotonic()
    ends = await asyncio.gather(*(ports.pushes.accept(push) for _, push in pushes), return_exceptions=True)
    _note(request, began, [placed for placed, end in zip(pushes, ends, strict=True) if end is None])
    lost = 0
    for (place, push), end in zip(pushes, ends, strict=True):
        if end is None:
            request.app.count_accepted(push.total)
        elif isinstance(end, StoreUnavailable):
            lost += 1
            results[place] = refused(away())
        elif isinstance(end, Exception):
            results[place] = refused(*failed(end, request_id=request.id, push=push.id))
        else:
            raise end
    if lost and lost == len(pushes):
        raise away()
