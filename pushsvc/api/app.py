"""The aiohttp application: handlers joined to the route table, one middleware around them."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from aiohttp import web

from ..model.push import Platform
from ..ports.channels import Channels
from ..ports.erasure import Erasures
from ..ports.feedback import Suppressions
from ..ports.keyring import KeyRing
from ..ports.letters import DeadLetters
from ..ports.limits import Limiter
from ..ports.provider import Renderer
from ..ports.pushes import PushStore
from ..ports.receipts import ReceiptLog
from ..ports.registry import Registry
from . import openapi
from .channels.calls import ChannelCalls
from .config import ApiApp, ApiConfig
from .devices.calls import DeviceCalls
from .devices.restore import RestoreCalls
from .devices.suppressions import SuppressionCalls
from .http.auth import Gate
from .http.connections import Connection
from .http.limits import ApiLimits
from .http.problems import REQUEST_ID, ExpectationFailed, boundary, request_id_of, respond
from .letters.calls import FailedCalls
from .meta import MetaCalls
from .pushes.backlog import Backlog
from .pushes.calls import PushCalls
from .pushes.ids import new_push_id, now_ms
from .pushes.waits import Waits
from .routes import CALLS

_PATHS = frozenset(call.path for call in CALLS)
_NAMED = re.compile(r"\{(\w+)\}")

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
HANDLERS: web.AppKey[dict[str, Handler]] = web.AppKey("handlers", dict[str, Handler])
"""By the names of the route table; looked up at each request, so that they can change under open connections."""


def build_app(
    *,
    apps: Mapping[str, ApiApp],
    renderers: Mapping[Platform, Renderer],
    pushes: PushStore,
    receipts: ReceiptLog,
    keys: KeyRing,
    dead: DeadLetters,
    registry: Registry,
    erasures: Erasures,
    suppressions: Suppressions,
    channels: Channels,
    ready: Callable[[], Awaitable[Mapping[str, str]]],
    metrics: Callable[[], Awaitable[bytes]],
    held: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    frozen: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    unserved: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
    notes: Callable[[], Awaitable[list[str]]] | None = None,
    public: bool = True,
    config: ApiConfig,
    clock: Callable[[], int] = now_ms,
    new_id: Callable[[int], str] = new_push_id,
    monotonic: Callable[[], float] = time.monotonic,
    limiter: Limiter | None = None,
    backlog: Backlog | None = None,
    waits: Waits | None = None,
) -> web.Application:
    """The HTTP API over these ports.

    `renderers` are those of every platform that exists; which of them an app may use is in its `platforms`.
    `ready` names the parts that are not ready, with why; empty means ready. `metrics` gives Prometheus' text,
    `held` the routes that do not send now, and why; `frozen` those that prune nothing now, and why; `notes` what
    an operator should look at besides.
    `clock` gives Unix milliseconds, `new_id` a push id for such an instant, `monotonic` seconds.
    `limiter` holds apps and keys to their limits, `backlog` all of them to the bound of the queue; without them there
    are none. `waits` has the requests that wait for the end of their push: give the same to each application that is
    to take the place of this one.
    """
    waits = waits or Waits(pushes, most=config.max_waiting)
    gate = Gate(
        apps, keys, monotonic=monotonic, cache_seconds=config.key_cache_seconds, cache_size=config.key_cache_size
    )
    rates = {name: each.limit for name, each in apps.items() if each.limit is not None}
    limits = ApiLimits(limiter, rates, monotonic=monotonic) if limiter is not None else None
    about_pushes = PushCalls(
        apps=apps,
        renderers=renderers,
        pushes=pushes,
        receipts=receipts,
        registry=registry,
        gate=gate,
        config=config,
        clock=clock,
        new_id=new_id,
        limits=limits,
        backlog=backlog,
        waits=waits,
        held=held,
    )
    about_itself = MetaCalls(
        ready=ready,
        metrics=metrics,
        held=held,
        frozen=frozen,
        unserved=unserved,
        full=backlog.full if backlog is not None else None,
        notes=notes,
        gate=None if public else gate,
        document=openapi.build(platforms=renderers, config=config),
    )
    owners = (
        about_pushes,
        DeviceCalls(
            apps=apps, renderers=renderers, registry=registry, erasures=erasures, gate=gate, config=config, clock=clock
        ),
        FailedCalls(dead=dead, gate=gate, config=config),
        RestoreCalls(registry=registry, gate=gate, config=config),
        SuppressionCalls(suppressions=suppressions, gate=gate),
        ChannelCalls(channels=channels, gate=gate, config=config),
        about_itself,
    )
    app = web.Application(middlewares=[boundary(_leave)], client_max_size=config.body_limit)

    async def stop_waiting(_: web.Application) -> None:
        await waits.aclose()

    # Before the server waits for what is being handled.
    app.on_shutdown.append(stop_waiting)
    handlers: dict[str, Handler] = {}
    app[HANDLERS] = handlers
    for call in CALLS:
        handlers[call.name] = next(getattr(owner, call.name) for owner in owners if hasattr(owner, call.name))
        handler = partial(_latest, handlers, call.name)
        path = _pattern(call.path)
        if call.method == "GET":
            app.router.add_get(path, handler, allow_head=True, expect_handler=_expect)
        else:
            app.router.add_route(call.method, path, handler, expect_handler=_expect)
    return app


def reload_app(app: web.Application, newer: web.Application) -> None:
    """Answer with the handlers of `newer`, built for other apps, from the next request on."""
    handlers: dict[str, Handler] = app[HANDLERS]
    latest: dict[str, Handler] = newer[HANDLERS]
    handlers.update(latest)


def _pattern(path: str) -> str:
    """The path as aiohttp matches it: `/v1/push/batch` is a call, so `batch` is no push id, nor `restore` a device's.

    Without this, aiohttp would allow at the path of the call what it allows for a push. A name may hold anything but a
    slash; by itself aiohttp takes no braces, which are common around GUIDs.
    """
    parent, _, last = path.rpartition("/")
    beside = {other.rpartition("/")[2] for other in _PATHS if other.rpartition("/")[0] == parent}
    calls = sorted(end for end in beside if not end.startswith("{"))
    others = f"(?!(?:{'|'.join(calls)})$)" if calls else ""
    return _NAMED.sub(r"{\1:[^/]+}", parent) + "/" + _NAMED.sub(rf"{{\1:{others}[^/]+}}", last)


async def _latest(handlers: Mapping[str, Handler], name: str, request: web.Request) -> web.StreamResponse:
    return await handlers[name](request)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue` as aiohttp does, and any other expectation with a problem document."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The body of the final answer has not begun.
        request.writer.output_size = 0
        return None
    response = respond(ExpectationFailed("Only `Expect: 100-continue` is understood."))
    response.headers[REQUEST_ID] = request_id_of(request)
    response.force_close()
    return response


def _leave(request: web.Request) -> None:
    if isinstance(request.protocol, Connection):
        request.protocol.leave(request.content)
