"""A client of the HTTP API for commands: one session, answers as JSON objects, problem documents as errors."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import msgspec

from ..errors import PushsvcError
from ..model.push import JsonObject
from ..net.tls import client_context
from ..net.urls import exact_url
from .access import Access


class ApiProblem(PushsvcError):
    """The server refused a request. `status` is the HTTP status; the text lists every fault that the server named."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ApiUnreachable(PushsvcError):
    """No server answered at the URL."""


class Client:
    """Calls the API. Each method raises `ApiProblem` when refused and `ApiUnreachable` when nothing answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def send(self, document: JsonObject, headers: Mapping[str, str]) -> JsonObject:
        return await self._call("POST", "/v1/push", document, headers)

    async def status(self, push_id: str) -> JsonObject:
        return await self._call("GET", f"/v1/push/{quote(push_id, safe='')}")

    async def cancel(self, push_id: str) -> JsonObject:
        return await self._call("DELETE", f"/v1/push/{quote(push_id, safe='')}")

    async def deliveries(self, push_id: str) -> AsyncIterator[JsonObject]:
        """Yield the delivery rows of a push, fetching page by page."""
        cursor = ""
        while True:
            query = f"?limit=1000&cursor={quote(cursor, safe='')}" if cursor else "?limit=1000"
            page = await self._call("GET", f"/v1/push/{quote(push_id, safe='')}/deliveries{query}")
            for row in page["items"]:
                yield row
            cursor = page.get("cursor") or ""
            if not cursor:
                return

    async def make_channel(self, storage: str) -> JsonObject:
        return await self._call("POST", "/v1/channels", {"storage": storage})

    async def channels(self) -> list[str]:
        """Return the ids of all broadcast channels."""
        listed: list[str] = (await self._call("GET", "/v1/channels"))["channels"]
        return listed

    async def channel(self, channel_id: str) -> JsonObject:
        return await self._call("GET", _channel(channel_id))

    async def delete_channel(self, channel_id: str) -> None:
        await self._call("DELETE", _channel(channel_id))

    async def _call(
        self,
        method: Literal["GET", "POST", "DELETE"],
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonObject:
        sent: dict[str, Any] = {"headers": dict(headers or {})}
        if body is not None:
            sent["data"] = msgspec.json.encode(body)
            sent["headers"]["Content-Type"] = "application/json"
        try:
            async with self._session.request(method, exact_url(self._url + path), **sent) as response:
                content = await response.read()
                status, wait = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # the last: it is no URL
            raise ApiUnreachable(
                f"{self._url} does not answer: {_cause(error)} (is the service running there? --url or PUSHSVC_URL "
                "says where it is)"
            ) from None
        try:
            answer = msgspec.json.decode(content)
        except msgspec.DecodeError:
            answer = None
        if status >= 400:
            again = f", try again in {wait} s" if wait.isdecimal() else ""
            raise ApiProblem(status, _told(status, answer) + again)
        if status == 204:
            return {}
        if not isinstance(answer, dict):
            raise ApiProblem(status, f"{self._url} answered {status} without a JSON object: is it pushsvc?")
        return answer


@asynccontextmanager
async def open_client(at: Access) -> AsyncIterator[Client]:
    """Open a client with its session."""
    async with open_session(at) as session:
        yield Client(session, at.url)


@asynccontextmanager
async def open_session(at: Access) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session that has the key.

    A call may take a minute, because `Prefer: wait` delays an answer for up to 30 s.
    """
    headers = {"Authorization": f"Bearer {at.key}", "User-Agent": "pushsvc-cli"}
    connector = aiohttp.TCPConnector(ssl=client_context() if at.url.startswith("https:") else True)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
        yield session


def _channel(channel_id: str) -> str:
    return f"/v1/channels/{quote(channel_id, safe='')}"


def _cause(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ssl.SSLError):  # whose number is OpenSSL's, not the system's
            return "it does not speak TLS, or not as we do: is it http://?"
        number = error.os_error.errno
        return os.strerror(number).lower() if number and number > 0 else str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer within 60 seconds"
    return str(error) or type(error).__name__


def _told(status: int, answer: object) -> str:
    """Return a problem document (RFC 9457) as text, with each fault on its own line."""
    if not isinstance(answer, dict):
        return f"the server answered {status}"
    title, detail = str(answer.get("title") or f"the server answered {status}"), str(answer.get("detail") or "")
    text = title if detail in ("", title) else f"{title}: {detail}"
    faults = answer.get("errors")
    for fault in faults if isinstance(faults, list) else ():
        if isinstance(fault, dict):
            text += f"\n  {fault.get('path')}: {fault.get('message')}"
    return f"{text} ({status})" if "\n" not in text else text.replace("\n", f" ({status})\n", 1)
