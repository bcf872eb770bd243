"""The client as coroutines, over one session of aiohttp."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from msgspec import Struct, structs

from ..net.retry_after import retry_after
from ..net.tls import client_context
from ..net.urls import exact_url
from .documents import (
    Accepted,
    BatchResult,
    BatchResults,
    Delivery,
    Device,
    DeviceDocument,
    Erased,
    FeedbackEvent,
    Page,
    Problem,
    PushDocument,
    Status,
    Topic,
)
from .errors import Refused, Unreachable
from .retries import PASSING, Retries

Method: TypeAlias = Literal["GET", "PUT", "POST", "DELETE"]
T = TypeVar("T")

BATCH: Final = 1000
"""The most pushes of one call."""
LONGEST_WAIT: Final = 30
"""The most seconds that the service delays an answer."""
FIRST_LOOK, LAST_LOOK = 0.1, 2.0
"""Seconds between two looks at a push that is waited for."""


class Answer(Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes


class AsyncClient:
    """Calls the API with the key of one app. A context manager, or ended by `close`.

    Every call raises `Refused` when the service refuses it and `Unreachable` when no service answers, both after the
    retries. `timeout` is the seconds of one try.
    """

    def __init__(
        self, url: str, *, key: str, retries: Retries | None = None, timeout: float = 60.0, ca_file: str = ""
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is not a URL: it begins with http:// or https://")
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("the API key is empty, or holds characters that no key has")
        self._url = url.rstrip("/")
        self._key = key
        self._retries = Retries() if retries is None else retries
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- pushes -------------------------------------------------------------------------------------

    async def send(self, push: PushDocument, *, idempotency_key: str = "") -> Accepted:
        """Send a push. Without a key of the caller's each call has its own, so that its retries send nothing twice."""
        answer = await self.request("POST", "/v1/push", push, _once(idempotency_key))
        if answer.status == 200:  # Of a first call with this key that waited for the end.
            status = _read(answer, Status)
            return Accepted(status.id, status.state, status.counts.total, warnings=status.warnings)
        return _read(answer, Accepted)

    async def send_and_wait(
        self, push: PushDocument, *, idempotency_key: str = "", timeout: float | None = None
    ) -> Status:
        """Send a push and return its status once every delivery has ended. Raises `TimeoutError` after `timeout`."""
        wait = LONGEST_WAIT if timeout is None else max(1, min(LONGEST_WAIT, int(timeout)))
        headers = {**_once(idempotency_key), "Prefer": f"wait={wait}"}
        async with asyncio.timeout(timeout):
            answer = await self.request("POST", "/v1/push", push, headers)
            if answer.status == 200:
                return _read(answer, Status)
            return await self.wait(_read(answer, Accepted).id)

    async def send_batch(self, pushes: Iterable[PushDocument], *, idempotency_key: str = "") -> list[BatchResult]:
        """Send many different pushes, 1,000 a call, and return what became of each, in order.

        A push that is refused has its `error` in its place. Raises for a call that fails as a whole: with a key of the
        caller's the same pushes can be sent again.
        """
        key = idempotency_key or str(uuid.uuid4())
        given, results = list(pushes), list[BatchResult]()
        for begin in range(0, len(given), BATCH):
            headers = _once(f"{key}-{begin // BATCH}" if len(given) > BATCH else key)
            answer = await self.request("POST", "/v1/push/batch", given[begin : begin + BATCH], headers)
            results += _read(answer, BatchResults).results
        return results

    async def status(self, push_id: str) -> Status:
        """Return where a push stands."""
        return _read(await self.request("GET", f"/v1/push/{_quoted(push_id)}"), Status)

    async def wait(self, push_id: str, *, timeout: float | None = None) -> Status:
        """Return the status of a push once every delivery has ended. Raises `TimeoutError` after `timeout` seconds."""
        pause = FIRST_LOOK
        async with asyncio.timeout(timeout):
            while not (status := await self.status(push_id)).ended:
                await asyncio.sleep(pause)
                pause = min(LAST_LOOK, pause * 1.5)
        return status

    async def cancel(self, push_id: str) -> Status:
        """Cancel what has not been sent. Refused with 409 if every delivery has ended."""
        return _read(await self.request("DELETE", f"/v1/push/{_quoted(push_id)}"), Status)

    def deliveries(self, push_id: str, *, outcome: str = "") -> AsyncIterator[Delivery]:
        """Yield the deliveries of a push that have ended, page by page."""
        return self._paged(Page[Delivery], f"/v1/push/{_quoted(push_id)}/deliveries", outcome=outcome)

    async def feedback(self, *, after: str = "") -> AsyncIterator[FeedbackEvent]:
        """Yield the events after the one with the id `after`, in order, and end at the last: its `id` continues."""
        while True:
            page = _read(await self.request("GET", _query("/v1/feedback", after=after)), Page[FeedbackEvent])
            for event in page.items:
                yield event
            if not page.items or not page.cursor or page.cursor == after:
                return
            after = page.cursor

    # --- devices ------------------------------------------------------------------------------------

    async def put_device(self, device_id: str, device: DeviceDocument) -> Device:
        """Register a device, or refresh it: the document replaces the former one."""
        return _read(await self.request("PUT", f"/v1/devices/{_quoted(device_id)}", device), Device)

    async def device(self, device_id: str) -> Device:
        """Return a device."""
        return _read(await self.request("GET", f"/v1/devices/{_quoted(device_id)}"), Device)

    def devices(self, *, topic: str = "", platform: str = "", state: str = "") -> AsyncIterator[Device]:
        """Yield the devices of the app, page by page."""
        return self._paged(Page[Device], "/v1/devices", topic=topic, platform=platform, state=state)

    async def delete_device(self, device_id: str) -> bool:
        """Remove a device. Returns whether it was there."""
        try:
            await self.request("DELETE", f"/v1/devices/{_quoted(device_id)}")
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True

    async def user_devices(self, user: str) -> list[Device]:
        """Return the devices of a user."""
        return _read(await self.request("GET", f"/v1/users/{_quoted(user)}/devices"), Page[Device]).items

    async def erase_user(self, user: str) -> Erased:
        """Erase a user and everything that is kept of them."""
        return _read(await self.request("DELETE", f"/v1/users/{_quoted(user)}"), Erased)

    async def subscribe(self, topic: str, device_id: str) -> None:
        """Subscribe a device to a topic."""
        await self.request("PUT", f"/v1/topics/{_quoted(topic)}/devices/{_quoted(device_id)}")

    async def unsubscribe(self, topic: str, device_id: str) -> None:
        """Unsubscribe a device from a topic."""
        await self.request("DELETE", f"/v1/topics/{_quoted(topic)}/devices/{_quoted(device_id)}")

    async def topic(self, topic: str) -> Topic:
        """Return a topic with the number of its devices."""
        return _read(await self.request("GET", f"/v1/topics/{_quoted(topic)}"), Topic)

    async def _paged(self, kind: type[Page[T]], path: str, **params: str) -> AsyncIterator[T]:
        cursor = ""
        while True:
            page = _read(await self.request("GET", _query(path, **params, cursor=cursor)), kind)
            for each in page.items:
                yield each
            if not page.cursor:
                return
            cursor = page.cursor

    # --- any call -----------------------------------------------------------------------------------

    async def request(
        self, method: Method, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Make a call that no other method makes, with the same retries, and return the answer as it came.

        A POST without an `Idempotency-Key` is made once, because a repeat may do it twice.
        """
        sent = dict(headers or {})
        content = None if body is None else msgspec.json.encode(body)
        if content is not None:
            sent.setdefault("Content-Type", "application/json")
        again = method != "POST" or "Idempotency-Key" in sent
        loop = asyncio.get_running_loop()
        begin, tries = loop.time(), 0
        while True:
            error: Refused | Unreachable
            try:
                answer = await self._try(method, path, content, sent)
            except (aiohttp.ClientError, OSError, ValueError) as failure:
                error = Unreachable(f"{self._url} does not answer: {self._cause(failure)}")
                passing = not isinstance(failure, (ValueError, aiohttp.ClientConnectorCertificateError))
                asked = None
            else:
                if answer.status < 400:
                    return answer
                asked = retry_after({name.lower(): value for name, value in answer.headers.items()}, 0.0)
                error = Refused(_problem(answer), asked)
                passing = answer.status in PASSING
            tries += 1
            pause = None
            if again and passing:
                pause = self._retries.pause(tries, loop.time() - begin, random.random(), asked=asked)  # noqa: S311
            if pause is None:
                raise error from None
            await asyncio.sleep(pause)

    async def _try(self, method: Method, path: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        session = self._opened()
        async with session.request(
            method, exact_url(self._url + path), data=content, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    def _cause(self, failure: Exception) -> str:
        """Return in a few words why there is no answer."""
        if isinstance(failure, aiohttp.ClientConnectorCertificateError):
            return f"its certificate is not trusted: {failure.certificate_error}"
        if isinstance(failure, aiohttp.ClientConnectorError):
            if isinstance(failure.os_error, ssl.SSLError):  # whose number is OpenSSL's, not the system's
                return "it does not speak TLS, or not as we do: is it http://?"
            number = failure.os_error.errno
            return os.strerror(number).lower() if number and number > 0 else str(failure.os_error)
        if isinstance(failure, TimeoutError):
            return f"no answer within {self._timeout.total:g} seconds"
        return str(failure) or type(failure).__name__

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = client_context(self._ca_file) if self._url.startswith("https:") else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                headers={"Authorization": f"Bearer {self._key}", "User-Agent": "pushsvc-client"},
                timeout=self._timeout,
            )
        return self._session


def _once(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid.uuid4())}


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _query(path: str, **params: str) -> str:
    given = {name: value for name, value in params.items() if value}
    return f"{path}?{urlencode({**given, 'limit': '1000'})}"


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"the answer with status {answer.status} is not one of pushsvc: {error}") from None


def _problem(answer: Answer) -> Problem:
    try:
        problem = msgspec.json.decode(answer.body, type=Problem)
    except msgspec.MsgspecError:
        problem = Problem("The server gives no reason")
    return structs.replace(problem, status=answer.status)
