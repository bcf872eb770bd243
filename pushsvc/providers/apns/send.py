"""Deliveries to APNs over the HTTP/2 pool.

The cost of a delivery is paid millions of times, so what a chunk shares is built once per chunk, a delivery adds its
path and its `apns-id`, and one tuple is all that waits for the answer.

A refused provider token may be too old, or refused by one connection alone (each is bound to the key of its first
request). So before such a refusal is reported, a new token is signed if that is allowed, the connections are replaced,
and one delivery tries it; what is refused meanwhile waits for that answer, and nothing else is sent. Where it is good,
those that waited are left to their submitter, since some may have expired or been taken back. This happens only if it
makes something new, so never twice for one fault, and with permanently refused credentials less and less often.
Every other retry is decided by the policy.

A broadcast channel has another path, and uses the app's bundle id without a suffix:
https://developer.apple.com/documentation/usernotifications/sending-broadcast-push-notification-requests-to-apns
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias

from msgspec import structs

from ...model.delivery import BadNotification, Delivery, Misconfigured, Outcome, Sent, Throttled, TokenDead, Unavailable
from ...model.push import Chunk, Route
from ...net.http2.exchange import Answer, Response
from ...net.http2.transport import POST, Pool, field, path
from ...net.proxy import proxy_for
from ...ports.provider import OnOutcome
from ..badges import filled_in, unread_of
from ..clocks import clock_skew
from ..endpoint import host_fields
from ..reasons import RENEWED
from .classify import BROADCASTS, EXPIRED_TOKEN, INVALID_TOKEN, TOO_MANY_TOKENS, UNRELATED_KEY, classify
from .config import Config
from .credentials import ProviderToken, client_context
from .fields import APNS_ID, device_path, field_of, hashed, headers_of, id_of_digest
from .remedies import remedy
from .vocabulary import CHANNEL, TOPIC_SUFFIX

_Context: TypeAlias = tuple[Delivery, OnOutcome, str, int]
"""The delivery, its callback, its `apns-id`, and how often the credentials had been renewed when it was sent."""

RENEWALS: Final = (10.0, 3600.0)
"""Seconds between two replacements of the connections for a refusal: at first, doubled with each, and at most."""

_RENEWABLE: Final = frozenset({EXPIRED_TOKEN, INVALID_TOKEN, UNRELATED_KEY})

EXPIRATION: Final = "apns-expiration"
MOST_STORELESS: Final = 10_000
"""Channels that are remembered, at most: as many as Apple allows to an app."""
_COMMON_NAMES: Final = frozenset({"apns-push-type", "apns-priority", "apns-topic"})
_NOT_OF_BROADCASTS: Final = frozenset({"apns-topic", "apns-collapse-id"})
_DRY_RUN: Final = Sent(reason="dry_run")


class ApnsProvider:
    """`ports.provider.Provider` for one app's account at APNs. Belongs to one event loop."""

    def __init__(
        self,
        route: Route,
        config: Config,
        pool: Pool,
        token: ProviderToken | None,
        *,
        broadcasts: Pool,
        clock: Callable[[], float],
        ttl_clock: Callable[[], float],
    ) -> None:
        """Create the provider. `broadcasts` is the pool for channels: `pool` itself if they are reached at the same
        host. `clock` is this machine's, and `ttl_clock` the one by which devices are registered."""
        self.route = route
        self._pool = pool
        self._broadcasts = broadcasts
        self.parts = {BROADCASTS: broadcasts} if broadcasts is not pool else {}
        self._token = token
        self._clock = clock
        self._ttl_clock = ttl_clock
        self._renewed = 0
        """How often the credentials were renewed: a token signed, or the connections replaced."""
        self._replaced_at = float("-inf")
        self._replace_after = RENEWALS[0]
        self._refused: list[tuple[_Context, Misconfigured]] | None = None
        """While one delivery tries renewed credentials: what was refused meanwhile."""
        self._wakes: list[Callable[[], None]] = []
        self._skew = 0.0
        """Seconds that the provider's clock was ahead of ours when it last refused us."""
        self._loop = asyncio.get_running_loop()
        self._topic = config.topic
        self._sandbox = config.environment == "sandbox"
        """Only there APNs gives an id for its console, which is not worth decoding each answer's headers elsewhere."""
        self._storeless: set[str] = set()
        """Channels that keep nothing, which take no expiration but 0."""
        self._head = POST + host_fields(config.endpoint)
        broadcasts_of = path(f"/4/broadcasts/apps/{config.topic}")
        self._broadcast_head = POST + host_fields(config.broadcast_endpoint) + broadcasts_of
        self._authorization = field("authorization", token.header) if token else b""
        self._common: dict[tuple[str | None, str | None, str | None], bytes] = {}
        # Of the chunk at hand.
        self._chunk: Chunk | None = None
        self._tail = b""
        self._named = b""
        self._sha = hashlib.sha1(usedforsecurity=False)

    @property
    def room(self) -> int:
        return self._pool.room if self._refused is None else 0

    @property
    def trouble(self) -> str:
        return self._pool.trouble

    @property
    def silence(self) -> float:
        return self._pool.silence

    @property
    def refused(self) -> str:
        return ""  # What Apple refuses, it refuses in its answers.

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)
        self._pool.on_room(wake)

    def remedy(self, reason: str) -> str:
        return remedy(reason, self._skew)

    async def aclose(self) -> None:
        await asyncio.gather(self._pool.aclose(), self._broadcasts.aclose())
        await asyncio.sleep(0)  # A closed pool answers at the next turn of the loop.

    # --- sending ------------------------------------------------------------

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        self._send(delivery, on_outcome, self._on_answer)

    def _send(self, delivery: Delivery, on_outcome: OnOutcome, on_answer: Callable[[Any, Answer], None]) -> None:
        chunk = delivery.chunk
        try:
            if chunk is not self._chunk:
                self._prepare(chunk)
            if chunk.dry_run:
                # APNs has no way to check without delivering.
                self._loop.call_soon(on_outcome, delivery, _DRY_RUN)
                return
            target, body = delivery.target, chunk.message.body
            if chunk.message.counts:
                body = filled_in(body, chunk.push_id, unread_of(target))
            own_id = self._id_of(target.index, chunk.total)
            if target.kind == CHANNEL:
                fields = self._broadcast_fields(chunk, target.token, own_id)
                self._broadcasts.submit(fields, body, (delivery, on_outcome, own_id, self._renewed), on_answer)
                return
            fields = self._head + device_path(target.token) + self._tail + APNS_ID + own_id.encode()
            self._pool.submit(fields, body, (delivery, on_outcome, own_id, self._renewed), on_answer)
        except ValueError:
            # A field that HTTP/2 cannot carry. Intake lets none through, but a store may outlive its rules.
            self._loop.call_soon(on_outcome, delivery, BadNotification(reason="malformed_request"))

    def _broadcast_fields(self, chunk: Chunk, channel: str, own_id: str) -> bytes:
        """Return the header fields of a request to a broadcast channel.

        One request reaches all subscribers, so there are few of these and nothing is cached. The expiration is
        required. If the push has none, it is the end of the push, so that a channel with storage keeps it; a channel
        without storage refuses this once, and is remembered.
        """
        headers = headers_of(chunk)
        if EXPIRATION not in headers:
            end = "0" if channel in self._storeless else str(chunk.expires_at // 1000)
            headers = {**headers, EXPIRATION: end}
        own = [field_of(name, value) for name, value in headers.items() if name not in _NOT_OF_BROADCASTS]
        given = field("apns-channel-id", channel) + field("apns-request-id", own_id)
        return self._broadcast_head + self._authorization + b"".join(own) + given

    def _prepare(self, chunk: Chunk) -> None:
        """Build what the deliveries of the chunk share."""
        if self._token is not None and self._token.refresh():
            self._authorization = field("authorization", self._token.header)
            self._renewed += 1
        headers, dated = chunk.message.headers, chunk.message.dated
        key = (headers.get("apns-push-type"), headers.get("apns-priority"), headers.get("apns-topic"))
        common = self._common.get(key)
        if common is None:
            common = self._remember(key)
        tail = self._authorization + common
        if len(headers) + key.count(None) > len(_COMMON_NAMES):
            own = [field_of(*each) for each in headers.items() if each[0] not in _COMMON_NAMES and each[0] != dated]
            tail += b"".join(own)
        if dated:
            tail += field_of(dated, str(chunk.expires_at // 1000))
        self._tail = tail
        self._named = hashed(chunk.push_id)
        if chunk.total != 1:
            self._sha = hashlib.sha1(self._named, usedforsecurity=False)
        self._chunk = chunk

    def _id_of(self, index: int, total: int) -> str:
        """Return `apns_id` of a target of the chunk at hand, one of `total` of its push."""
        if total == 1:
            return id_of_digest(hashlib.sha1(self._named + b"%d" % index, usedforsecurity=False).hexdigest())
        sha = self._sha.copy()
        sha.update(b"%d" % index)
        return id_of_digest(sha.hexdigest())

    def _remember(self, key: tuple[str | None, str | None, str | None]) -> bytes:
        push_type, priority, topic = key
        if topic is None:
            topic = self._topic + TOPIC_SUFFIX.get(push_type or "", "")
        given = (("apns-topic", topic), ("apns-push-type", push_type), ("apns-priority", priority))
        common = b"".join([field(name, value) for name, value in given if value is not None])
        if len(self._common) >= 256:  # callers choose topics, so this must not grow with them
            self._common.clear()
        self._common[key] = common
        return common

    # --- answers ------------------------------------------------------------

    def _on_answer(self, context: _Context, answer: Answer) -> None:
        if type(answer) is Response and answer.status == 200:
            delivery, on_outcome, own_id, _ = context
            unique_id = answer.headers.get("apns-unique-id", "") if self._sandbox else ""
            on_outcome(delivery, Sent(status=200, provider_id=own_id, unique_id=unique_id))
        else:
            self._judge(context, answer, again=True)

    def _on_last_answer(self, context: _Context, answer: Answer) -> None:
        self._judge(context, answer, again=False)

    def _judge(self, context: _Context, answer: Answer, *, again: bool) -> None:
        outcome = self._classify(context, answer)
        if (
            again
            and type(outcome) is Misconfigured
            and outcome.reason in _RENEWABLE
            and not outcome.chosen
            and self._try_renewed(context, outcome)
        ):
            return
        if again and type(outcome) is BadNotification and self._learn_storage(context[0], outcome):
            self._send_again(context, self._on_last_answer)
            return
        context[1](context[0], outcome)

    def _send_again(self, context: _Context, on_answer: Callable[[Any, Answer], None]) -> bool:
        """Send a refused delivery again, or return False and answer it where it must not be sent any more."""
        delivery, on_outcome, *_ = context
        if delivery.is_over(self._ttl_clock()):
            on_outcome(delivery, RENEWED)
            return False
        self._send(delivery, on_outcome, on_answer)
        return True

    def _learn_storage(self, delivery: Delivery, outcome: BadNotification) -> bool:
        """Return whether it was refused because its channel keeps nothing, and can go without an expiration of ours."""
        target = delivery.target
        if outcome.reason != "BadExpirationDate" or target.kind != CHANNEL:
            return False
        if EXPIRATION in delivery.chunk.message.headers:
            return False
        if len(self._storeless) >= MOST_STORELESS:
            self._storeless.clear()
        self._storeless.add(target.token)
        return True

    def _classify(self, context: _Context, answer: Answer) -> Outcome:
        outcome = classify(answer, context[0].chunk.message, self._clock(), self._topic)
        if type(outcome) is Sent:
            return structs.replace(outcome, provider_id=context[2])
        if type(outcome) is Unavailable and self.parts and context[0].target.kind == CHANNEL:
            return structs.replace(outcome, part=BROADCASTS)
        if type(outcome) is TokenDead and outcome.since is not None:
            # Apple's time, which this machine's clock shows: its provider tokens would be refused otherwise.
            ahead = self._ttl_clock() - self._clock()
            return structs.replace(outcome, since=outcome.since + round(1000 * ahead))
        if type(outcome) is Throttled and outcome.reason == TOO_MANY_TOKENS and self._token is not None:
            self._token.hold()
        if type(outcome) is Misconfigured and type(answer) is Response:
            self._skew = clock_skew(answer.headers, self._clock())
        return outcome

    # --- renewed credentials ------------------------------------------------

    def _try_renewed(self, context: _Context, outcome: Misconfigured) -> bool:
        """Send a refused delivery again where there are newer credentials than it went with; False where there are
        none. It is answered later."""
        if self._refused is not None:
            self._refused.append((context, outcome))
            return True
        if context[3] < self._renewed:
            self._send_again(context, self._on_last_answer)
            return True
        if not self._renew(outcome.reason):
            return False
        if self._send_again(context, self._on_trial):
            self._refused = []
        return True

    def _renew(self, reason: str) -> bool:
        """Make the credentials new; False where nothing can be made new now."""
        if self._token is None:
            return False
        renewed = self._token.refuse()
        if renewed:
            self._authorization = field("authorization", self._token.header)
            self._chunk = None
        now = self._loop.time()
        if reason != EXPIRED_TOKEN and now - self._replaced_at >= self._replace_after:
            calm = now - self._replaced_at > RENEWALS[1]
            self._replace_after = RENEWALS[0] if calm else min(RENEWALS[1], self._replace_after * 2)
            self._replaced_at = now
            for pool in {self._pool, self._broadcasts}:
                pool.renew()
            renewed = True
        self._renewed += renewed
        return renewed

    def _on_trial(self, context: _Context, answer: Answer) -> None:
        """Handle the answer to the delivery that tried the renewed credentials, and the deliveries that waited for
        it."""
        waiting, self._refused = self._refused or [], None
        outcome = self._classify(context, answer)
        context[1](context[0], outcome)
        for (delivery, on_outcome, *_), refusal in waiting:
            on_outcome(delivery, refusal if type(outcome) is Misconfigured else RENEWED)
        for wake in self._wakes:
            wake()


@asynccontextmanager
async def open_provider(
    route: Route,
    config: Config,
    *,
    request_timeout: float,
    clock: Callable[[], float] = time.time,
    ttl_clock: Callable[[], float] = time.time,
    open_pool: Callable[..., Pool] = Pool,
) -> AsyncIterator[ApnsProvider]:
    """Open the connections of one route and keep them; on leaving, what is in flight ends first.

    `request_timeout` is in seconds. A delivery that is sent again (see above) may take three times that. `ttl_clock`
    is the clock of the instants since which tokens are dead. Raises `CredentialError` before anything is opened.
    """
    token = ProviderToken(config, clock) if config.key_file else None
    ssl = client_context(config)

    def pool_to(url: str, **sizes: int) -> Pool:
        proxy = proxy_for(url, config.proxy, os.environ)
        return open_pool(url, ssl=ssl, proxy=proxy, request_timeout=request_timeout, **sizes)

    async with AsyncExitStack() as stack:
        pushes = pool_to(config.endpoint, connections=config.connections, window=config.window)
        pool = broadcasts = await stack.enter_async_context(pushes)
        if config.broadcast_endpoint != config.endpoint:
            # One request reaches all subscribers, so one connection suffices.
            broadcasts = await stack.enter_async_context(pool_to(config.broadcast_endpoint, connections=1))
        yield ApnsProvider(route, config, pool, token, broadcasts=broadcasts, clock=clock, ttl_clock=ttl_clock)
