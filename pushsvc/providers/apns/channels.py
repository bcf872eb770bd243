"""Broadcast channels: create, list, read and delete them at their own host, over the same HTTP/2 pool as pushes.

Apple's answers become errors of our API, with Apple's reason in the text; the golden table is
`tests/unit/golden/apns_channels.toml`. An expired provider token, and a connection that is bound to another key, are
handled here: such a request is sent again once.

Sources, under https://developer.apple.com/documentation/usernotifications/:
sending-channel-management-requests-to-apns and handling-error-responses-from-apns.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from ...errors import BadGateway, Conflict, NotFound, RequestError, Unavailable
from ...net.http2.exchange import Answer, Failure, Response
from ...net.http2.transport import POST, Pool, answer_of, field, path
from ...net.proxy import proxy_for
from ...net.retry_after import retry_after
from ...ports.channels import Channel, Storage
from ..endpoint import host_fields
from .classify import EXPIRED_TOKEN, TOO_MANY_TOKENS, UNRELATED_KEY, read_error
from .config import Config
from .credentials import ProviderToken, client_context

MOST: Final = 10_000
"""Channels that Apple allows to an app, in each environment."""
LIST_LIMIT: Final = 1 << 23
"""The maximum size of an answer in bytes: enough for `MOST` ids, whose size Apple does not document."""
BUSY_WAIT: Final = 60
"""Seconds to wait after a 429 or 5xx that names none."""

_GET: Final = field(":method", "GET")
_DELETE: Final = field(":method", "DELETE")
_POLICIES: Final[dict[Storage, int]] = {"none": 0, "latest": 1}
_STORAGES: Final[dict[int, Storage]] = {policy: storage for storage, policy in _POLICIES.items()}
_REASON: Final = re.compile(r"[A-Za-z ]{1,64}").fullmatch


class _Described(Struct):
    policy: int = msgspec.field(name="message-storage-policy")


class _Listed(Struct):
    channels: list[str]


_Shape = TypeVar("_Shape")


class ApnsChannels:
    """`ports.ChannelAccount` for one app's account at APNs. Belongs to one event loop."""

    def __init__(
        self,
        config: Config,
        pool: Pool,
        token: ProviderToken | None,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], object],
    ) -> None:
        self._topic = config.topic
        self._pool = pool
        self._token = token
        self._clock = clock
        self._new_id = new_id
        self._host = host_fields(config.channels_endpoint)
        self._one = path(f"/1/apps/{config.topic}/channels")
        self._all = path(f"/1/apps/{config.topic}/all-channels")

    async def create(self, storage: Storage) -> Channel:
        body = msgspec.json.encode({"message-storage-policy": _POLICIES[storage], "push-type": "LiveActivity"})
        answer = await self._ask(POST, self._one, body=body)
        channel_id = answer.headers.get("apns-channel-id", "")
        if not channel_id:
            raise _unreadable(answer)
        return Channel(channel_id, storage)

    async def all(self) -> list[str]:
        return _read(await self._ask(_GET, self._all), _Listed).channels

    async def get(self, channel_id: str) -> Channel:
        answer = await self._ask(_GET, self._one, channel_id)
        policy = _read(answer, _Described).policy
        if policy not in _STORAGES:
            raise _unreadable(answer)
        return Channel(channel_id, _STORAGES[policy])

    async def delete(self, channel_id: str) -> None:
        await self._ask(_DELETE, self._one, channel_id)

    # --- asking -------------------------------------------------------------

    async def _ask(self, method: bytes, where: bytes, channel_id: str = "", body: bytes = b"") -> Response:
        """Return a successful answer. Raises the error of `refusal` for any other, and `Unavailable` if there is
        none."""
        answer = await self._send(method, where, channel_id, body)
        if isinstance(answer, Response) and self._renew(_reason(answer)):
            answer = await self._send(method, where, channel_id, body)
        if isinstance(answer, Failure):
            raise self._silence(answer)
        if not 200 <= answer.status < 300:
            raise refusal(answer, self._topic, self._clock())
        return answer

    async def _send(self, method: bytes, where: bytes, channel_id: str, body: bytes) -> Answer:
        fields = method + self._host + where
        if self._token is not None:
            self._token.refresh()
            fields += field("authorization", self._token.header)
        fields += field("apns-request-id", str(self._new_id()))
        if channel_id:
            fields += field("apns-channel-id", channel_id)
        return await answer_of(self._pool, fields, body)

    def _renew(self, reason: str) -> bool:
        """Do what makes another try worth while; False when nothing does."""
        if self._token is None:
            return False
        if reason == TOO_MANY_TOKENS:
            self._token.hold()
        elif reason == UNRELATED_KEY:
            self._pool.renew()
            return True
        return reason == EXPIRED_TOKEN and self._token.refuse()

    def _silence(self, failure: Failure) -> Unavailable:
        why = self._pool.trouble or f"no answer ({failure.reason})"
        done = "; the request may have been carried out" if failure.maybe_sent else ""
        return Unavailable(f"The channel management of APNs cannot be reached: {why}{done}.", retry_after=1)


# --- what an answer means, pure -----------------------------------------------------------------


def refusal(answer: Response, topic: str, now: float) -> RequestError:
    """Return what our API answers where APNs answers this. `now` in Unix seconds."""
    status, reason = answer.status, _reason(answer)
    message = f"APNs answers {status} {reason}".rstrip()
    match reason:
        case "ChannelNotRegistered" | "BadChannelId" | "MissingChannelId":
            return NotFound(f"No channel has this id ({message}).")
        case "FeatureNotEnabled":
            remedy = "switch them on at https://developer.apple.com/account/resources/identifiers/list"
            return Conflict(f"{message}: broadcasts are switched off for {topic}; {remedy}.")
        case "CannotCreateChannelConfig":
            return Conflict(f"{message}: the app has as many channels as it may ({MOST:,}); delete some.")
    if status == 429 or status >= 500:
        wait = retry_after(answer.headers, now)
        return Unavailable(f"{message}: try again later.", retry_after=BUSY_WAIT if wait is None else round(wait))
    if status == 403 or reason == "TopicDisallowed":
        return BadGateway(f"{message}: it refuses the app's credentials or topic; `pushsvc check` looks at them.")
    return BadGateway(f"{message}, which pushsvc did not expect.")


def _reason(answer: Response) -> str:
    reason = read_error(answer.body).reason
    return reason if _REASON(reason) else ""


def _read(answer: Response, shape: type[_Shape]) -> _Shape:
    try:
        return msgspec.json.decode(answer.body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise _unreadable(answer) from None


def _unreadable(answer: Response) -> BadGateway:
    return BadGateway(f"APNs answers {answer.status}, but not in the form that its documentation describes.")


@asynccontextmanager
async def open_channels(
    config: Config,
    *,
    request_timeout: float,
    clock: Callable[[], float] = time.time,
    new_id: Callable[[], object] = uuid.uuid4,
    open_pool: Callable[..., Any] = Pool,
) -> AsyncIterator[ApnsChannels]:
    """Open a connection for the length of the block. `request_timeout` is in seconds. Raises `CredentialError` before
    anything is opened."""
    token = ProviderToken(config, clock) if config.key_file else None
    async with open_pool(
        config.channels_endpoint,
        ssl=client_context(config),
        proxy=proxy_for(config.channels_endpoint, config.proxy, os.environ),
        connections=1,
        request_timeout=request_timeout,
        body_limit=LIST_LIMIT,
        receive_window=LIST_LIMIT,
    ) as pool:
        yield ApnsChannels(config, pool, token, clock=clock, new_id=new_id)
