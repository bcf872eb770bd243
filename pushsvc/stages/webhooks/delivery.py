"""Delivers events to one webhook: batch after batch, in order, until there are none or the receiver refuses.

There is one call at a time, so that the receiver always has a prefix of the events, and those of a device arrive in
the order in which they happened. A batch is pinned before its first call: a repeat, after a failure or a crash, sends
the same events under the same id.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Literal, assert_never

from ... import telemetry
from ...ports.webhooks import Batch, WebhookCallNote, WebhookClaim
from .body import batch_body
from .caller import WebhookCaller
from .config import WebhookConfig
from .verdict import Delivered, GivenUp, Halved, Later, SwitchedOff, Verdict, WebhookReply, judge

RESULTS: Final[Mapping[type[Verdict], Literal["delivered", "failed", "halved", "given_up", "off"]]] = {
    Delivered: "delivered",
    Later: "failed",
    Halved: "halved",
    GivenUp: "given_up",
    SwitchedOff: "off",
}

_NAMES: Final = telemetry.traces.Names(("pushsvc.batch",), ("pushsvc.events",))


async def deliver(
    claim: WebhookClaim,
    caller: WebhookCaller,
    config: WebhookConfig,
    app: str,
    *,
    over: Callable[[], bool],
    clock: Callable[[], float],
    jitter: Callable[[], float] = random.random,
) -> int:
    """Deliver events until there are none left or `over()` is true, and return the number of delivered events.

    `over` becomes true when other webhooks should be served. `clock` returns Unix seconds by the clock of the store,
    which the ids of the events have as well.
    """
    events = 0
    while not over() and (batch := await claim.next(config.batch)) is not None:
        began, at = time.monotonic(), int(clock() * 1000)
        tracer = telemetry.traces.tracer
        span = None if tracer is None else tracer.begin()
        if span is not None:
            span.note(_NAMES, (batch.id,), (len(batch.events),))
        try:
            answer = await caller.post(batch.id, batch_body(app, batch), trace=b"" if span is None else span.carried)
            seconds = round(time.monotonic() - began, 3)
            verdict = judge(answer, batch, config, now=int(clock() * 1000), jitter=jitter())
            held = await _record(claim, batch, answer, verdict)
        except BaseException as error:
            if span is not None:
                span.end(_alike(app, config.host, None, type(error).__name__))
            raise
        _report(app, config, batch, answer, verdict)
        if span is not None:
            why = "" if isinstance(verdict, Delivered) else answer.reason
            span.end(_alike(app, config.host, answer.status, why))
        attempt, result = batch.attempts + 1, RESULTS[type(verdict)]
        await claim.note(
            WebhookCallNote(at, batch.id, len(batch.events), attempt, answer.status, answer.reason, seconds, result)
        )
        if not held:
            telemetry.get_logger("webhooks").warning("webhook_is_run_elsewhere", app=app)
            break
        if isinstance(verdict, Delivered):
            events += len(batch.events)
        if isinstance(verdict, Later | SwitchedOff) or (isinstance(verdict, GivenUp) and verdict.wait):
            break
    return events


@lru_cache(maxsize=1024)
def _alike(app: str, host: str, status: int | None, error: str) -> telemetry.traces.Alike:
    """Return what spans of calls have in common. `status` is None where the answer was not recorded."""
    about: telemetry.traces.Attributes = (("pushsvc.app", app), ("server.address", host))
    if status is not None:
        about += (("http.response.status_code", status),)
    return telemetry.traces.Alike("webhook", "client", about, error, _NAMES)


async def _record(claim: WebhookClaim, batch: Batch, answer: WebhookReply, verdict: Verdict) -> bool:
    """Record what follows from the answer. Returns False if another process has taken the webhook over."""
    match verdict:
        case Delivered():
            return await claim.delivered(batch)
        case Later(wait=wait):
            return await claim.failed(batch, answer.reason, wait=wait)
        case Halved():
            return await claim.halve(batch, answer.reason)
        case GivenUp(wait=wait):
            buried = await claim.give_up(batch, answer.reason)
            if buried and wait:
                return await claim.rest(wait)
            if buried and batch.again and answer.in_trouble:
                return await claim.drop_asked()
            return buried
        case SwitchedOff():
            return await claim.switch_off(answer.reason)
        case _:
            assert_never(verdict)


def _report(app: str, config: WebhookConfig, batch: Batch, answer: WebhookReply, verdict: Verdict) -> None:
    log = telemetry.get_logger("webhooks").bind(app=app, host=config.host, batch=batch.id, events=len(batch.events))
    attempt = batch.attempts + 1
    match verdict:
        case Delivered():
            result = "delivered"
            log.info("webhook_delivered", attempt=attempt)
        case Later(wait=wait):
            result = "failed"
            log.warning("webhook_failed", reason=answer.reason, attempt=attempt, again_in=round(wait, 1))
        case Halved():
            result = "halved"
            log.warning("webhook_halved", reason=answer.reason, attempt=attempt)
        case GivenUp():
            result = "given_up"
            log.error("webhook_given_up", reason=answer.reason, attempt=attempt)
        case SwitchedOff():
            result = "gone"
            log.error("webhook_switched_off", reason=answer.reason)
        case _:
            assert_never(verdict)
    telemetry.WEBHOOK_CALLS.labels(app, result).inc()
