"""The operator over the API of a running service, for the app of a key."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from ..client import AsyncClient, ClientError, Refused, Retries, Unreachable
from ..model.access import Scope
from ..model.instants import instant, parse_instant
from ..model.rates import Rate
from ..ports.admin import KeyRow, WebhookState, WebhookStates
from ..ports.erasure import Erasure
from ..ports.letters import DeadFilter, DeadRow
from .access import Access
from .failed import PAGE
from .operator import DEVICE_FIELDS, Failed, MadeKey, require_free, require_stored

T = TypeVar("T")


@asynccontextmanager
async def open_api(at: Access, *, strict: bool) -> AsyncIterator[ApiOperator | None]:
    """Open the API. Yields None where no service answers there or it refuses the key, unless it is `strict`:
    then it raises `ClientError`."""
    async with AsyncClient(at.url, key=at.key, retries=Retries(0.0)) as client:
        try:
            # The key of the call is among the keys of its app.
            rows = _read((await client.request("GET", "/v1/admin/keys")).body, _Keys).keys
        except ClientError:
            if strict:
                raise
            rows = []
        yield ApiOperator(client, rows[0].app) if rows else None


class ApiOperator:
    """Works over the API, for the app of its key."""

    def __init__(self, client: AsyncClient, app: str) -> None:
        self.apps = [app]
        self._client = client

    async def keys(self) -> list[KeyRow]:
        return (await self._get("/v1/admin/keys", _Keys)).keys

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        require_free(await self.keys(), app, name)
        asked: dict[str, object] = {"name": name, "scopes": scopes}
        if intake is not None:
            asked["intake"] = str(intake)
        made = _read((await self._client.request("POST", "/v1/admin/keys", asked)).body, _NewKey)
        row = KeyRow(made.app, made.name, made.scopes, made.intake, made.created_at, made.kept_in)
        return MadeKey(made.key, made.sha256, row)

    async def revoke_key(self, app: str, name: str) -> bool:
        require_stored(await self.keys(), app, name)
        return await self._delete(f"/v1/admin/keys/{_quoted(name)}")

    async def failed(self, which: DeadFilter, limit: int) -> Failed:
        narrow: dict[str, str] = {"push": which.push, "platform": which.platform, "reason": which.reason}
        for name, at in (("since", which.since), ("until", which.until)):
            narrow[name] = "" if at is None else instant(at)
        narrow = {name: text for name, text in narrow.items() if text}
        counting = await self._client.request("POST", "/v1/failed/replay", {**narrow, "dry_run": True})
        found: list[tuple[str, DeadRow]] = []
        cursor: str | None = ""
        while cursor is not None and len(found) < limit:
            place = {"cursor": cursor} if cursor else {}
            query = urlencode({**narrow, **place, "limit": min(PAGE, limit - len(found))})
            page = await self._get(f"/v1/failed?{query}", _FailedPage)
            found += [(self.apps[0], each.row()) for each in page.items]
            cursor = page.cursor
        return Failed(_read(counting.body, _Matched).matched, found)

    async def webhooks(self) -> list[tuple[str, WebhookState]]:
        return [(self.apps[0], each) for each in (await self._get("/v1/admin/webhooks", WebhookStates)).webhooks]

    async def resume_webhooks(self, app: str) -> None:
        await self._client.request("POST", "/v1/admin/webhooks/resume")

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        try:
            answer = await self._client.request("GET", f"/v1/admin/devices/{_quoted(device_id)}")
        except Refused as refused:
            if refused.status != 404:
                raise
            return []
        known: dict[str, Any] = msgspec.json.decode(answer.body)
        return [{"app": self.apps[0], **{name: known.get(name) for name in DEVICE_FIELDS}}]

    async def delete_device(self, app: str, device_id: str) -> bool:
        return await self._delete(f"/v1/devices/{_quoted(device_id)}")

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        until = time.monotonic() + wait
        while True:
            answer = await self._client.request("DELETE", f"/v1/users/{_quoted(user)}")
            erased = _read(answer.body, _Erased)
            if erased.done or time.monotonic() >= until:
                return Erasure(erased.erased, erased.done, erased.removed, heard=not erased.warnings)

    async def _get(self, path: str, kind: type[T]) -> T:
        return _read((await self._client.request("GET", path)).body, kind)

    async def _delete(self, path: str) -> bool:
        try:
            await self._client.request("DELETE", path)
        except Refused as refused:
            if refused.status != 404:
                raise
            return False
        return True


# --- the answers of the API -----------------------------------------------------------------------


class _Keys(Struct):
    keys: list[KeyRow]


class _NewKey(Struct):
    key: str
    sha256: str
    app: str
    name: str
    scopes: tuple[Scope, ...]
    intake: str | None
    created_at: str | None
    kept_in: Literal["configuration", "store"]


class _Letter(Struct):
    id: str
    push_id: str
    platform: str
    device_id: str | None
    token_hash: str
    reason: str
    status: int
    attempts: int
    at: str

    def row(self) -> DeadRow:
        """Return it as the store has it."""
        return DeadRow(**{**msgspec.structs.asdict(self), "at": parse_instant(self.at)})


class _FailedPage(Struct):
    items: list[_Letter]
    cursor: str | None


class _Matched(Struct):
    matched: int


class _Erased(Struct):
    erased: int
    done: bool
    removed: dict[str, int] = {}
    warnings: list[Any] = []


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Unreachable(f"the answer is not one of this version of pushsvc: {error}") from None


def _quoted(name: str) -> str:
    return quote(name, safe="")
