"""Messages to FCM over the HTTP/2 pool.

All requests of a route have the same header fields, so these are built once per access token; a chunk provides the
body except for its target, and a delivery adds its token. One tuple is all that waits for the answer.

A 401 about our access token is handled here, by a new one. What was refused after that has come is sent again once. Of
what waited for it one delivery tries it; the others are left to their submitter, since some may have expired or been
taken back.
Every other retry is decided by the policy.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import msgspec

from ...model.delivery import Delivery, Misconfigured, Outcome, Sent, Unavailable
from ...model.push import Chunk, Route
from ...net.http2.transport import POST, Answer, Pool, Response, field, path
from ...net.proxy import proxy_for
from ...ports.provider import OnOutcome, Uplink
from ..badges import filled_in, unread_of
from ..clocks import clock_skew
from ..endpoint import host_fields, tls_context
from ..reasons import RENEWED
from .addresses import ADDRESSES
from .classify import classify, concerns_access_token, message_name
from .config import Config
from .credentials import AccessToken, Fetch, load_service_account
from .remedies import remedy
from .spans import filled

_Context: TypeAlias = tuple[Delivery, OnOutcome, int]
"""The delivery, its callback, and the number of the access token with which it was sent."""

_BEFORE: Final = {kind: b'{"message":{"%b":' % kind.encode() for kind in ADDRESSES}
_BEFORE_DRY: Final = {kind: b'{"validate_only":true,"message":{"%b":' % kind.encode() for kind in ADDRESSES}
"""The body in front of a target, by its kind."""

_quote: Final = msgspec.json.Encoder().encode


def head_of(config: Config, project_id: str) -> bytes:
    """Return the header fields of every message to a project, less its authorization."""
    head = POST + path(f"/v1/projects/{project_id}/messages:send") + host_fields(config.endpoint)
    return head + field("content-type", "application/json; charset=UTF-8")


class FcmProvider:
    """`ports.provider.Provider` for one app's Firebase project. Belongs to one event loop."""

    def __init__(
        self,
        route: Route,
        config: Config,
        pool: Pool,
        project_id: str,
        fetch: Fetch,
        *,
        clock: Callable[[], float],
        ttl_clock: Callable[[], float],
    ) -> None:
        """Create the provider. `clock` is this machine's, by which credentials are signed, and `ttl_clock` the one by
        which chunks expire."""
        self.route = route
        self._pool = pool
        self._clock = clock
        self._ttl_clock = ttl_clock
        self._loop = asyncio.get_running_loop()
        self._wakes: list[Callable[[], None]] = []
        self._refused: list[_Context] = []
        self._token = AccessToken(fetch, clock=clock, changed=self._on_token)
        self._head = head_of(config, project_id)
        self._fields = b""
        self._skew = 0.0
        """Seconds that the provider's clock was ahead of ours when it last refused us."""
        # Of the chunk at hand.
        self._chunk: Chunk | None = None
        self._before = _BEFORE
        self._after = b""
        self._ages = False
        """Whether there are spans in `_after`."""
        self._fresh_until = 0.0
        """Until when they are true, by `ttl_clock`."""
        self._keeper = self._loop.create_task(self._token.keep())

    @property
    def room(self) -> int:
        return self._pool.room if self._token.usable() else 0

    @property
    def trouble(self) -> str:
        if not self._token.value:
            return str(self._token.failure or "waiting for an access token")
        return self._pool.trouble

    @property
    def silence(self) -> float:
        return self._pool.silence

    @property
    def parts(self) -> Mapping[str, Uplink]:
        return {}

    @property
    def refused(self) -> str:
        failure = None if self._token.value else self._token.failure
        return failure.reason if failure is not None and failure.final else ""

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        self._pool.on_room(wake)

    def remedy(self, reason: str) -> str:
        return remedy(reason, self._skew)

    async def aclose(self) -> None:
        # The pool goes first: what it has in flight may still be refused and wait for a token.
        await self._pool.aclose()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._answer_refused(Unavailable(reason="closing"))
        await asyncio.sleep(0)  # A closed pool answers at the next turn of the loop.

    # --- sending ------------------------------------------------------------

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        self._send(delivery, on_outcome, self._on_answer)

    def _send(self, delivery: Delivery, on_outcome: OnOutcome, on_answer: Callable[[Any, Answer], None]) -> None:
        chunk = delivery.chunk
        if chunk is not self._chunk or (self._ages and self._ttl_clock() >= self._fresh_until):
            self._prepare(chunk)
        target, after = delivery.target, self._after
        if chunk.message.counts:
            after = filled_in(after, chunk.push_id, unread_of(target))
        self._pool.submit(
            self._fields,
            self._before[target.kind] + _quote(target.token) + after,
            (delivery, on_outcome, self._token.number),
            on_answer,
        )

    def _prepare(self, chunk: Chunk) -> None:
        """Build what the deliveries of the chunk share: the body before and behind the target."""
        self._before = _BEFORE_DRY if chunk.dry_run else _BEFORE
        message = chunk.message
        body = message.body
        self._ages = bool(message.spans)
        if self._ages or message.instants:
            expires_at = chunk.expires_at / 1000
            left = max(0, math.ceil(expires_at - self._ttl_clock()))
            self._fresh_until = expires_at - left + 1
            body = filled(body, message.spans, left, message.instants, chunk.expires_at // 1000)
        rest = body[1:]
        self._after = (rest if rest == b"}" else b"," + rest) + b"}"
        self._chunk = chunk

    # --- answers ------------------------------------------------------------

    def _on_answer(self, context: _Context, answer: Answer) -> None:
        if type(answer) is Response:
            if answer.status == 200:
                delivery, on_outcome, _ = context
                on_outcome(delivery, Sent(status=200, provider_id=message_name(answer.body)))
                return
            if concerns_access_token(answer) and self._token.refuse(context[2]):
                if self._token.value:
                    self._send_again(context)
                else:
                    self._refused.append(context)
                return
        self._on_last_answer(context, answer)

    def _on_last_answer(self, context: _Context, answer: Answer) -> None:
        delivery, on_outcome, _ = context
        now = self._clock()
        outcome = classify(answer, delivery.chunk.message, now)
        if type(outcome) is Misconfigured and type(answer) is Response:
            self._skew = clock_skew(answer.headers, now)
        on_outcome(delivery, outcome)

    def _send_again(self, context: _Context) -> bool:
        """Send a refused delivery again, or return False and answer it where it must not be sent any more."""
        delivery, on_outcome, _ = context
        if delivery.is_over(self._ttl_clock()):
            on_outcome(delivery, RENEWED)
            return False
        # The pool lets it wait for its turn, within another request timeout.
        self._send(delivery, on_outcome, self._on_last_answer)
        return True

    # --- the access token ---------------------------------------------------

    def _on_token(self) -> None:
        """Handle a new access token, or the failure to get one."""
        token = self._token
        if token.value:
            self._fields = self._head + field("authorization", f"Bearer {token.value}")
            while self._refused and not self._send_again(self._refused.pop(0)):
                pass
            self._answer_refused(RENEWED)
            for wake in self._wakes:
                wake()
        elif token.failure is not None:
            if token.failure.final:
                self._answer_refused(Misconfigured(status=401, reason=token.failure.reason))
            else:
                self._answer_refused(Unavailable(reason=token.failure.reason))

    def _answer_refused(self, outcome: Outcome) -> None:
        waiting, self._refused = self._refused, []
        for delivery, on_outcome, _ in waiting:
            on_outcome(delivery, outcome)


@asynccontextmanager
async def open_provider(
    route: Route,
    config: Config,
    *,
    request_timeout: float,
    clock: Callable[[], float] = time.time,
    ttl_clock: Callable[[], float] = time.time,
    open_pool: Callable[..., Pool] = Pool,
    fetch: Fetch | None = None,
) -> AsyncIterator[FcmProvider]:
    """Open the connections of one route and keep them; on leaving, what is in flight ends first.

    Does not wait for the first access token: until it is there, `room` is 0. `request_timeout` is in seconds; a
    delivery that is sent again (see above) may take twice that and a token request. Raises `CredentialError` before
    anything is opened. `ttl_clock` is the clock by which chunks expire; `fetch` replaces Google's token endpoint.
    """
    account = load_service_account(config, timeout=request_timeout)
    async with open_pool(
        config.endpoint,
        ssl=tls_context(config.ca_file),
        proxy=proxy_for(config.endpoint, config.proxy, os.environ),
        connections=config.connections,
        window=config.window,
        request_timeout=request_timeout,
    ) as pool:
        fetch = fetch or account.fetch
        provider = FcmProvider(route, config, pool, account.project_id, fetch, clock=clock, ttl_clock=ttl_clock)
        try:
            yield provider
        finally:
            await provider.aclose()
