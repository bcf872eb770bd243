"""The calls about pushes and their feedback: read the request, ask the ports, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web

from ... import telemetry
from ...errors import (
    ContentTooLarge,
    Fault,
    InvalidRequest,
    NotFound,
    RequestError,
    StoreUnavailable,
)
from ...model.codec import encode_audience
from ...model.push import Content, Message, Platform, Push
from ...model.routing import platform_of
from ...model.status import ROWS_FOR_ALL, PushStatus
from ...ports.provider import Renderer, RenderError
from ...ports.pushes import PushStore
from ...ports.receipts import ReceiptLog
from ...ports.registry import Registry
from .. import answers
from ..config import ApiApp, ApiConfig
from ..http import idempotency, prefer
from ..http.auth import Gate
from ..http.body import check_headers, read_body
from ..http.limits import ApiLimits
from ..http.problems import SERVER, ClientGone, ProblemFault, away
from ..http.query import read as read_query
from ..http.refusal import summary
from ..routes import CALLS, JSON
from .audiences import Lookup, platforms_of
from .backlog import Backlog
from .batch import NDJSON, BatchItem, BatchResults, documents, refused
from .document import read
from .faults import LIMIT, MAX_TTL, Rules
from .ids import UUID
from .waits import Waits

_CALL: Final = {call.name: call for call in CALLS}
_HEADERS: Final[dict[str, str]] = {hdrs.CONTENT_TYPE: JSON, hdrs.SERVER: SERVER, hdrs.CACHE_CONTROL: "no-store"}


_BREATH: Final = 25
"""Pushes of a batch that are read before other requests have their turn."""
MOST_WARNINGS: Final = 20
"""Warnings that an answer has, at most."""
NOW_OR_NEVER: Final = 30
"""Seconds that a push with `ttl` 0 has to leave the service."""


class PushCalls:
    """The handlers, by the names of the route table. `clock` gives Unix milliseconds, `new_id` a push id for one."""

    def __init__(
        self,
        *,
        apps: Mapping[str, ApiApp],
        renderers: Mapping[Platform, Renderer],
        pushes: PushStore,
        receipts: ReceiptLog,
        registry: Registry,
        gate: Gate,
        config: ApiConfig,
        clock: Callable[[], int],
        new_id: Callable[[int], str],
        limits: ApiLimits | None = None,
        backlog: Backlog | None = None,
        waits: Waits,
        held: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        """`held` gives the routes that do not send now, `app/platform`, and why."""
        self._held = held
        self._waits = waits
        self._limits = limits
        self._backlog = backlog
        self._renderers = renderers
        self._pushes = pushes
        self._receipts = receipts
        self._lookup = Lookup(registry, apps)
        self._gate = gate
        self._config = config
        self._clock = clock
        self._new_id = new_id
        self._rules = {
            app.name: Rules.of(app.name, app.platforms, renderers, max_targets=config.max_targets, routes=app.routes)
            for app in apps.values()
        }
        self._accounts = {
            app.name: [(route, platform_of(route)) for route in sorted(app.accounts)] for app in apps.values()
        }
        self._accepted = {app.name: telemetry.ACCEPTED.labels(app.name) for app in apps.values()}

    async def post_push(self, request: web.Request) -> web.Response:
        """`POST /v1/push`: 202 once Redis holds it; or 200 once it has ended, for a caller who waits for that."""
        caller = await self._gate.caller(request, _CALL["post_push"].scopes)
        app = caller.app
        if self._limits is None:
            return await self._post_push(request, app)
        await self._limits.count(caller.key)
        try:
            return await self._post_push(request, app)
        except ClientGone:
            raise  # Perhaps after its push was accepted.
        except (RequestError, StoreUnavailable):
            await self._limits.give_back(caller.key)
            raise

    async def _post_push(self, request: web.Request, app: ApiApp) -> web.Response:
        if request.query_string:
            read_query(request.query.items(), ())
        check_headers(request)
        key = idempotency.key_of(request.headers)
        body = await read_body(request, self._config)
        if key is not None and (kept := await self._pushes.recall(app.name, key)) is not None:
            return await self._again(request, app.name, idempotency.first_answer(kept, request.path, body))
        prepared, warnings = self._prepare(app.name, body, key)
        push, unreached = prepared, 0
        if push.audience or push.targets.keys() - push.messages.keys():
            push, (unreached, found) = await self._lookup.at_once(prepared)
            warnings += found
        total = push.total
        answer = answers.accepted(push.id, push.first_state, _deliveries(push), unreached, warnings)
        if self._backlog is not None:
            await self._backlog.admit(app.name, total)
        if key is None:
            await self._pushes.accept(push)
        else:
            kept = await self._pushes.accept_once(
                [push], key=key, record=idempotency.record(request.path, body, answer)
            )
            if kept is not None:
                return await self._again(request, app.name, idempotency.first_answer(kept, request.path, body))
        self._accepted[app.name].inc(total)
        return await self._answer(request, app.name, push.id, answer)

    async def _again(self, request: web.Request, app: str, answer: bytes) -> web.Response:
        push_id = msgspec.json.decode(answer, type=answers.Accepted).id
        return await self._answer(request, app, push_id, answer, idempotency.REPLAYED)

    async def _answer(
        self, request: web.Request, app: str, push_id: str, accepted: bytes, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        """`accepted` with 202; or, where the caller would wait and has waited long enough, the status with 200."""
        if prefer.NAME not in request.headers:
            return _accepted(push_id, accepted, headers)
        seconds = prefer.wait_of(request.headers.getall(prefer.NAME))
        if seconds is None or self._waits.full:
            return _accepted(push_id, accepted, headers)
        status = await self._waits.until_ended(app, push_id, seconds, gone=lambda: request.transport is None)
        applied = {**(headers or {}), prefer.APPLIED: f"wait={seconds}"}
        if status is not None:
            warnings = msgspec.json.decode(accepted, type=answers.Accepted).warnings
            return _ok(
                answers.status(status, warnings=warnings), {**applied, "Content-Location": f"/v1/push/{push_id}"}
            )
        if request.transport is None:
            raise ClientGone
        return _accepted(push_id, accepted, applied)

    async def post_batch(self, request: web.Request) -> web.Response:
        """`POST /v1/push/batch`: 200 with what became of each push."""
        caller = await self._gate.caller(request, _CALL["post_batch"].scopes)
        app = caller.app
        if request.query_string:
            read_query(request.query.items(), ())
        lines = request.content_type == NDJSON
        if not lines:
            check_headers(request)
        key = idempotency.key_of(request.headers)
        body = await read_body(request, self._config)
        if key is not None and (kept := await self._pushes.recall(app.name, key)) is not None:
            return _ok(idempotency.first_answer(kept, request.path, body), idempotency.REPLAYED)
        asked = list(documents(body, lines=lines))
        if self._limits is None:
            return await self._post_batch(request, app.name, body, asked, key, [])
        await self._limits.count(caller.key, len(asked))
        results: list[BatchItem] = []
        accepted = 0
        try:
            answer = await self._post_batch(request, app.name, body, asked, key, results)
            accepted = sum(result.status == 202 for result in results)
            return answer
        finally:
            await self._limits.give_back(caller.key, len(asked) - accepted)

    async def _post_batch(
        self,
        request: web.Request,
        app: str,
        body: bytes,
        asked: Sequence[bytes],
        key: bytes | None,
        results: list[BatchItem],
    ) -> web.Response:
        """What became of each is put into `results`."""
        pushes: list[tuple[int, Push]] = []
        for place, document in enumerate(asked):
            if place % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            try:
                prepared, warnings = self._prepare(app, document, key)
                push, (unreached, found) = await self._lookup.at_once(prepared)
            except RequestError as error:
                results.append(refused(error))
            else:
                pushes.append((place, push))
                warnings += found
                results.append(
                    BatchItem(
                        202,
                        id=push.id,
                        state=push.first_state,
                        deliveries=_deliveries(push),
                        unreached=unreached or None,
                        warnings=warnings or None,
                    )
                )
        if key is not None and pushes:
            # All or none: a refusal that is kept would be the answer to each repeat.
            if self._backlog is not None:
                await self._backlog.admit(app, sum(push.total for _, push in pushes), path="$")
            record = idempotency.record(request.path, body, answers.encode(BatchResults(results)))
            kept = await self._pushes.accept_once([push for _, push in pushes], key=key, record=record)
            if kept is not None:
                return _ok(idempotency.first_answer(kept, request.path, body), idempotency.REPLAYED)
            self._accepted[app].inc(sum(push.total for _, push in pushes))
        else:
            await self._accept_each(app, await self._that_fit(app, pushes, results), results)
        return _ok(answers.encode(BatchResults(results)))

    async def _that_fit(
        self, app: str, pushes: Sequence[tuple[int, Push]], results: list[BatchItem]
    ) -> list[tuple[int, Push]]:
        """Those for which the queue has room; the others have their refusal in their place."""
        if self._backlog is None:
            return list(pushes)
        fitting: list[tuple[int, Push]] = []
        deliveries = 0
        for place, push in pushes:
            try:
                await self._backlog.admit(app, push.total, beside=deliveries)
            except RequestError as error:
                results[place] = refused(error)
            else:
                fitting.append((place, push))
                deliveries += push.total
        return fitting

    async def _accept_each(self, app: str, pushes: Sequence[tuple[int, Push]], results: list[BatchItem]) -> None:
        """Accept them in one group commit; what Redis did not take has 503 in its place."""
        ends = await asyncio.gather(*(self._pushes.accept(push) for _, push in pushes), return_exceptions=True)
        lost = 0
        for (place, push), end in zip(pushes, ends, strict=True):
            if end is None:
                self._accepted[app].inc(push.total)
            elif isinstance(end, StoreUnavailable):
                lost += 1
                results[place] = refused(away())
            else:
                raise end
        if lost and lost == len(pushes):
            raise away()

    def _prepare(self, app: str, body: bytes, key: bytes | None) -> tuple[Push, list[ProblemFault]]:
        """The push that `body` asks for, with an id that lets it live beside the record of its idempotency key; and
        what the providers' pages say against it."""
        created_at = self._clock()
        draft = read(body, self._rules[app], created_at)
        starts_at = created_at if draft.send_at is None else draft.send_at
        push_id = self._new_id(created_at)
        while key is not None and not self._pushes.beside(app, push_id, key):
            push_id = self._new_id(created_at)
        content = draft.content
        platforms = platforms_of(draft, self._rules[app].checks)
        rendered = render(self._renderers, content, platforms, push_id=push_id, starts_at=starts_at)
        push = Push(
            id=push_id,
            app=app,
            lane=draft.lane,
            created_at=created_at,
            expires_at=starts_at + 1000 * lifetime(content.ttl),
            messages={route: rendered[platform] for route, platform in self._accounts[app] if platform in rendered},
            targets=draft.targets,
            dry_run=content.dry_run,
            send_at=draft.send_at,
            audience=b"" if draft.audience is None else encode_audience(draft.audience),
            only=() if draft.only is None or draft.audience is None else tuple(sorted(draft.only)),
        )
        found = [ProblemFault(fault.path, fault.message) for fault in draft.warnings]
        for platform, message in rendered.items():
            said = self._renderers[platform].warnings(content, message, platforms[platform])
            found += [ProblemFault(fault.path, fault.message) for fault in said]
        return push, found[:MOST_WARNINGS]

    async def get_push(self, request: web.Request) -> web.Response:
        """`GET /v1/push/{id}`."""
        app, push_id, _ = await self._enter(request, "get_push")
        status = await self._pushes.status(app.name, push_id)
        if status is None:
            raise _no_push(push_id)
        return _ok(answers.status(status, await self._held_up(status)))

    async def _held_up(self, status: PushStatus) -> Mapping[str, str]:
        """The routes of the app that hold, and why, where deliveries wait."""
        if self._held is None or not (status.counts.queued or status.counts.retrying):
            return {}
        return {route: why for route, why in (await self._held()).items() if route.startswith(f"{status.app}/")}

    async def get_deliveries(self, request: web.Request) -> web.Response:
        """`GET /v1/push/{id}/deliveries`."""
        app, push_id, query = await self._enter(request, "get_deliveries")
        page = await self._pushes.deliveries(
            app.name, push_id, outcome=query["outcome"], cursor=query["cursor"] or "", limit=query["limit"]
        )
        if page is None:
            raise _no_push(push_id)
        if query["outcome"] == "sent" and page == ([], None):
            status = await self._pushes.status(app.name, push_id)
            if status is not None and status.counts.total > ROWS_FOR_ALL:
                told = f"rows of what was sent are kept of pushes of up to {ROWS_FOR_ALL:,} deliveries; see `counts`"
                raise InvalidRequest(faults=[Fault("outcome", told)])
        return _ok(answers.deliveries(*page))

    async def cancel_push(self, request: web.Request) -> web.Response:
        """`DELETE /v1/push/{id}`."""
        app, push_id, _ = await self._enter(request, "cancel_push")
        status = await self._pushes.cancel(app.name, push_id)
        if status is None:
            raise _no_push(push_id)
        return _ok(answers.status(status))

    async def get_feedback(self, request: web.Request) -> web.Response:
        """`GET /v1/feedback`."""
        call = _CALL["get_feedback"]
        app = await self._gate.enter(request, call.scopes)
        query = read_query(request.query.items(), call.params)
        after = query["after"] or ""
        page = await self._receipts.events(app.name, after=after, limit=query["limit"])
        if page.missing_to:
            telemetry.FEEDBACK_GAPS.labels(app.name, "api").inc()
            log = telemetry.get_logger("intake")
            log.warning("feedback_events_missing", app=app.name, reader="api", after=after, missing_to=page.missing_to)
        return _ok(answers.feedback(page, query["after"]))

    async def _enter(self, request: web.Request, name: str) -> tuple[ApiApp, str, Mapping[str, Any]]:
        call = _CALL[name]
        app = await self._gate.enter(request, call.scopes)
        query = read_query(request.query.items(), call.params)
        push_id = request.match_info["id"].lower()
        if not UUID.fullmatch(push_id):
            raise NotFound("No push has this id; ids are UUIDs.")
        return app, push_id, query


def _deliveries(push: Push) -> int | None:
    """None: they are still to be found."""
    return None if push.audience else push.total


def lifetime(ttl: int | None) -> int:
    """Seconds for which the service tries. With `ttl` 0 the provider stores nothing; going out takes time even so."""
    if ttl is None:
        return MAX_TTL
    return ttl or NOW_OR_NEVER


def _ok(body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, headers={**_HEADERS, **headers} if headers else _HEADERS)


def _accepted(push_id: str, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    sent: dict[str, str] = {hdrs.CONTENT_TYPE: JSON, hdrs.LOCATION: f"/v1/push/{push_id}", hdrs.SERVER: SERVER}
    return web.Response(status=202, body=body, headers={**sent, **headers} if headers else sent)


def _no_push(push_id: str) -> NotFound:
    return NotFound(f"There is no push {push_id} of this app; statuses are kept for a limited time.")


def render(
    renderers: Mapping[Platform, Renderer],
    content: Content,
    platforms: Mapping[Platform, Collection[str]],
    *,
    push_id: str,
    starts_at: int,
) -> dict[Platform, Message]:
    """What each of these platforms will be sent, by targets of these kinds.

    Raises `InvalidRequest` with the faults of all of them, or `ContentTooLarge` when size is the only one.
    """
    messages: dict[Platform, Message] = {}
    errors: list[RenderError] = []
    for platform, kinds in platforms.items():
        try:
            messages[platform] = renderers[platform].render(content, push_id=push_id, starts_at=starts_at, kinds=kinds)
        except RenderError as error:
            errors.append(error)
    if errors:
        faults = list(dict.fromkeys(fault for error in errors for fault in error.faults))
        listed, more = faults[:LIMIT], len(faults) > LIMIT
        if all(error.too_large for error in errors):
            raise ContentTooLarge("; ".join(fault.message for fault in listed), faults=listed)
        raise InvalidRequest(summary(len(listed), more), faults=listed)
    return messages
