"""Calls of the API for commands: one try each, its answer read as a value of a type or as a JSON object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from ...client import AsyncClient, Refused, Retries, Unreachable
from ...client.asynchronous import Method
from ...errors import NotFound
from ...model.instants import instant
from ...model.push import JsonObject
from ..access import Access
from ..running import run

if TYPE_CHECKING:
    from .operator import Pages

T = TypeVar("T")


class ApiPage(Struct, Generic[T]):
    """A part of a list of the API."""

    items: list[T]
    cursor: str | None


class ApiCalls:
    """Calls with one key. Each raises `ClientError`."""

    def __init__(self, client: AsyncClient, url: str) -> None:
        self._client = client
        self.url = url

    async def document(
        self, method: Method, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> JsonObject:
        """Return the JSON object of an answer; an empty one where it has none."""
        try:
            answer = await self._client.request(method, path, body, headers)
        except Unreachable as error:
            where = "is the service running there? --url or PUSHSVC_URL sets the address"
            raise Unreachable(f"{error} ({where})") from None
        try:
            return {} if answer.status == 204 else msgspec.json.decode(answer.body, type=dict[str, Any])
        except msgspec.DecodeError:
            text = f"{self.url} answered {answer.status} without a JSON object: is it pushsvc?"
            raise Unreachable(text) from None

    async def get(self, path: str, kind: type[T]) -> T:
        return await self._read("GET", path, kind)

    async def post(self, path: str, kind: type[T], body: object = None) -> T:
        return await self._read("POST", path, kind, body)

    async def post_only(self, path: str, body: object = None) -> None:
        """Make a call whose answer has nothing to read."""
        await self._client.request("POST", path, body)

    async def delete(self, path: str, kind: type[T]) -> T:
        return await self._read("DELETE", path, kind)

    async def known(self, method: Literal["GET", "DELETE"], path: str) -> JsonObject | None:
        """Return the JSON object of an answer, or None where there is no such thing."""
        try:
            return read((await self._client.request(method, path)).body or b"{}", dict[str, Any])
        except Refused as refused:
            if refused.status != NotFound.status:
                raise
            return None

    async def deleted(self, path: str) -> bool:
        """Delete something; return False where there is no such thing."""
        return await self.known("DELETE", path) is not None

    def pages(self, path: str, narrow: Mapping[str, str], kind: type[ApiPage[T]]) -> Pages[T]:
        """Return the function that reads a list page by page."""

        async def page(*, cursor: str, limit: int) -> tuple[list[T], str | None]:
            place = {"cursor": cursor} if cursor else {}
            found = await self.get(f"{path}?{urlencode({**narrow, 'limit': limit, **place})}", kind)
            return found.items, found.cursor

        return page

    async def _read(self, method: Literal["GET", "POST", "DELETE"], path: str, kind: type[T], body: object = None) -> T:
        return read((await self._client.request(method, path, body)).body, kind)


@asynccontextmanager
async def open_calls(at: Access) -> AsyncIterator[ApiCalls]:
    async with AsyncClient(at.url, key=at.key, retries=Retries(0.0)) as client:
        yield ApiCalls(client, at.url)


def ask(at: Access, method: Method, path: str, body: object = None) -> JsonObject:
    """Make one call, and return the JSON object of its answer."""

    async def main() -> JsonObject:
        async with open_calls(at) as api:
            return await api.document(method, path, body)

    return run(main())


def read(body: bytes, kind: type[T]) -> T:
    """Return the value of an answer. Raises `Unreachable` where it is not one of this version."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise other_version(error) from None


def other_version(error: Exception) -> Unreachable:
    """Return the error for an answer that cannot be read."""
    return Unreachable(f"the answer is not one of this version of pushsvc: {error}")


def quoted(name: str) -> str:
    """Return a name as a segment of a path."""
    return quote(name, safe="")


def push_path(push_id: str) -> str:
    """Return the path of a push, which its status is read from."""
    return f"/v1/push/{quoted(push_id)}"


def narrow_by(*, since: int | None, until: int | None, **texts: str) -> dict[str, str]:
    """Return a filter as the API takes it, in a query or a body."""
    span = {name: instant(at) for name, at in (("since", since), ("until", until)) if at is not None}
    return {name: text for name, text in texts.items() if text} | span
