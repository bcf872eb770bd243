"""The client of the HTTP API for commands: one try a call, answers as JSON objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import quote

import msgspec

from ..client import AsyncClient, Retries, Unreachable
from ..client.asynchronous import Method
from ..model.push import JsonObject
from .access import Access
from .running import run

T = TypeVar("T")


class Client:
    """Calls the API. Each method raises `Refused` when refused and `Unreachable` when nothing answers."""

    def __init__(self, api: AsyncClient, url: str) -> None:
        self._api = api
        self._url = url

    async def send(self, document: JsonObject, headers: Mapping[str, str]) -> JsonObject:
        return await self.call("POST", "/v1/push", document, headers)

    async def status(self, push_id: str) -> JsonObject:
        return await self.call("GET", f"/v1/push/{quote(push_id, safe='')}")

    async def cancel(self, push_id: str) -> JsonObject:
        return await self.call("DELETE", f"/v1/push/{quote(push_id, safe='')}")

    async def deliveries(self, push_id: str) -> AsyncIterator[JsonObject]:
        """Yield the delivery rows of a push, fetching page by page."""
        cursor = ""
        while True:
            query = f"?limit=1000&cursor={quote(cursor, safe='')}" if cursor else "?limit=1000"
            page = await self.call("GET", f"/v1/push/{quote(push_id, safe='')}/deliveries{query}")
            for row in page["items"]:
                yield row
            cursor = page.get("cursor") or ""
            if not cursor:
                return

    async def call(
        self, method: Method, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        """Make any call, and return the JSON object of its answer; an empty one where it has none."""
        try:
            answer = await self._api.request(method, path, body, headers)
        except Unreachable as error:
            where = "is the service running there? --url or PUSHSVC_URL sets the address"
            raise Unreachable(f"{error} ({where})") from None
        if answer.status == 204:
            return {}
        try:
            document = msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            document = None
        if not isinstance(document, dict):
            raise Unreachable(f"{self._url} answered {answer.status} without a JSON object: is it pushsvc?")
        return document


@asynccontextmanager
async def open_client(at: Access) -> AsyncIterator[Client]:
    async with AsyncClient(at.url, key=at.key, retries=Retries(0.0)) as api:
        yield Client(api, at.url)


def ask(at: Access, call: Callable[[Client], Awaitable[T]]) -> T:
    """Make one call, and return its answer."""

    async def main() -> T:
        async with open_client(at) as client:
            return await call(client)

    return run(main())
