"""The handlers of administration. Each shows and changes what belongs to the app of its key."""

from __future__ import annotations

from typing import Final

from ... import telemetry
from ...errors import Conflict, Forbidden, NotFound
from ...model.access import Scope
from ...model.codec import decode_audience
from ...model.devices import ByDevices, ByTopic, ByUsers, ByWhere, ToAll
from ...model.push import Route
from ...model.rates import Rate
from ...ports.admin import CheckAnswer, DeadBatches, key_row, key_rows
from ...ports.figures import SLOT
from ...ports.keyring import make_key
from ...rules.where import compile_where
from ..http.exchange import NO_CONTENT, Reply, Request
from ..http.instants import read_instants
from ..letters.document import read_filter
from ..ports import ApiPorts
from ..pushes.audiences import look_up
from ..pushes.document import Draft
from ..pushes.preparing import prepare
from .devices import count_where
from .document import (
    AudienceCount,
    CleanupDocument,
    KeepDocument,
    KeyList,
    NewKey,
    PushPage,
    PushPreview,
    ReleaseDocument,
    push_filter,
    shown_groups,
    shown_push,
)

RELEASED: Final = 3600
"""Seconds for which a route is released, if the call names none."""


async def get_stats(ports: ApiPorts, request: Request) -> Reply:
    """Return the state of the app."""
    return Reply(await ports.admin.stats(request.app.name))


async def get_pushes(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of the pushes, the newest first."""
    query, app = request.params, _own_app(request)
    found, cursor = await ports.pushes.recent(
        app, push_filter(query), cursor=query["cursor"] or "", limit=query["limit"]
    )
    return Reply(PushPage([shown_push(each) for each in found], cursor))


async def get_schedules(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of the pushes that wait for their time."""
    query = request.params
    found, cursor = await ports.pushes.schedules(request.app.name, cursor=query["cursor"] or "", limit=query["limit"])
    return Reply(PushPage([shown_push(each) for each in found], cursor))


async def get_keys(ports: ApiPorts, request: Request) -> Reply:
    """Return the keys of the app, without their texts."""
    return Reply(KeyList(await key_rows(ports.keys, request.app.keys, request.app.name)))


async def post_key(ports: ApiPorts, request: Request, asked: tuple[str, tuple[Scope, ...], Rate | None]) -> Reply:
    """Make a key, and return its text once."""
    name, scopes, intake = asked
    app = request.app
    text, key = make_key(app.name, name, scopes, intake, now=request.now)
    if any(known.name == name for known in app.keys) or not await ports.keys.add(key):
        raise Conflict(f"{app.name} has a key {name!r} already: revoke it first, or choose another name.")
    _log(request, "key_made", name=name, scopes=list(scopes))
    row = key_row(key, "store")
    made = NewKey(text, key.sha256, row.app, row.name, row.scopes, row.intake, row.created_at, row.kept_in)
    return Reply(made, 201, {"Location": f"/v1/admin/keys/{name}"})


async def delete_key(ports: ApiPorts, request: Request) -> Reply:
    """Revoke a key of the store."""
    app, name = request.app, request.params["name"]
    if any(key.name == name for key in app.keys):
        raise Conflict(
            f"The key {name!r} is in the configuration: remove it from [[apps.{app.name}.keys]]; running servers stop "
            "accepting it within seconds."
        )
    if name == request.key.name:
        raise Conflict("This is the key of this call: revoke it with another one.")
    if not await ports.keys.revoke(name, app.name):
        raise NotFound(f"{app.name} has no key {name!r}.")
    _log(request, "key_revoked", name=name)
    return NO_CONTENT


async def get_webhooks(ports: ApiPorts, request: Request) -> Reply:
    """Return the state of the webhooks of the app, with their last calls."""
    return Reply(await ports.admin.webhooks(request.app.name))


async def test_webhook(ports: ApiPorts, request: Request) -> Reply:
    """Call the webhook of the app without events."""
    return Reply(await ports.admin.test_webhook(request.app.name))


async def resume_webhooks(ports: ApiPorts, request: Request) -> Reply:
    """Continue the webhooks of the app, and return their state."""
    await ports.admin.resume_webhooks(request.app.name)
    _log(request, "webhooks_resumed")
    return await get_webhooks(ports, request)


async def get_dead_batches(ports: ApiPorts, request: Request) -> Reply:
    """Return the batches that were given up."""
    since, until = read_instants(request.params)
    return Reply(DeadBatches(await ports.admin.dead_batches(request.app.name, since=since, until=until)))


async def redeliver(ports: ApiPorts, request: Request, asked: tuple[int | None, int | None, bool]) -> Reply:
    """Ask for batches that were given up to be delivered again."""
    since, until, dry_run = asked
    found = await ports.admin.redeliver(request.app.name, since=since, until=until, dry_run=dry_run)
    if not dry_run:
        _log(request, "webhook_redelivery", batches=found.batches, events=found.events)
    return Reply(found, 202)


async def post_cleanup(ports: ApiPorts, request: Request, asked: CleanupDocument) -> Reply:
    """Request a cleanup, or count what it would remove."""
    if asked.dry_run:
        return Reply(await ports.admin.count_cleanup(request.app.name, asked.place or ""))
    _log(request, "cleanup_requested")
    return Reply(await ports.admin.clean_up(), 202)


async def get_check(ports: ApiPorts, request: Request) -> Reply:
    """Check the configuration of the app, the store and the credentials."""
    found = await ports.admin.check(request.app.name, online=request.params["online"] == "true")
    return Reply(CheckAnswer(all(finding.level != "error" for finding in found), list(found)))


def _own_app(request: Request) -> str:
    """Return the app of the key. Raises `Forbidden` where another one is asked for."""
    asked = request.params["app"]
    if asked not in (None, request.app.name):
        raise Forbidden(f"The key belongs to the app {request.app.name}: use a key of {asked}.")
    return request.app.name


def _log(request: Request, event: str, **values: object) -> None:
    """Log an act with the name of its key."""
    log = telemetry.get_logger("admin")
    log.info(event, app=request.app.name, by=request.key.name, request_id=request.id, **values)


async def get_rates(ports: ApiPorts, request: Request) -> Reply:
    """Return what was counted in the last hours."""
    query = request.params
    step = max(SLOT, query["step"] // SLOT * SLOT)
    return Reply(await ports.admin.rates(request.app.name, span=max(step, query["span"]), step=step))


async def get_failed_groups(ports: ApiPorts, request: Request) -> Reply:
    """Return dead letters by platform and reason."""
    which = read_filter(request.params)
    return Reply(shown_groups(*await ports.dead.groups(request.app.name, which), ports.admin.explain))


async def get_feedback_state(ports: ApiPorts, request: Request) -> Reply:
    """Return the guards against mass pruning, and what was pruned."""
    return Reply(await ports.admin.feedback(request.app.name))


async def release_route(ports: ApiPorts, request: Request, asked: ReleaseDocument) -> Reply:
    """Let a route prune for a while, whatever its answers are."""
    seconds = int(asked.for_ or RELEASED)
    await ports.admin.release(_own_route(request, asked.route), request.now + 1000 * seconds)
    _log(request, "pruning_released", route=asked.route, seconds=seconds)
    return await get_feedback_state(ports, request)


async def keep_route(ports: ApiPorts, request: Request, asked: KeepDocument) -> Reply:
    """End the release of a route."""
    await ports.admin.release(_own_route(request, asked.route), 0)
    _log(request, "pruning_guarded", route=asked.route)
    return await get_feedback_state(ports, request)


async def post_preview(ports: ApiPorts, request: Request, draft: Draft) -> Reply:
    """Return what each route would be sent for a push. Nothing is stored or sent."""
    app = request.app
    push, warnings = prepare(ports, request, draft)
    unreached = 0
    if push.audience or push.targets.keys() - push.messages.keys():
        push, (unreached, found) = await look_up(ports.registry, push, app)
        warnings += found
    shown = PushPreview(
        state=push.first_state,
        deliveries=None if push.audience else push.total,
        warnings=warnings,
        unreached=unreached,
        audience=await _audience(ports, request, push.audience) if push.audience else None,
        messages=ports.admin.preview(push),
    )
    return Reply(shown)


async def _audience(ports: ApiPorts, request: Request, blob: bytes) -> AudienceCount:
    """Return the number of devices that an audience selects now."""
    app = request.app.name
    match decode_audience(blob):
        case ByWhere(text):
            fits = compile_where(text, now=request.now, platforms=sorted(request.app.rules.platforms))
            return AudienceCount("where", *await count_where(ports, app, lambda device: bool(fits(device))))
        case ByTopic(topic):
            return AudienceCount("topic", await ports.registry.topic_size(app, topic) or 0, True)
        case ToAll():
            return AudienceCount("all", await ports.registry.count(app), True)
        case ByDevices():
            return AudienceCount("devices", None, False)
        case ByUsers():
            return AudienceCount("users", None, False)


def _own_route(request: Request, name: str) -> Route:
    """Return a route of the app. Raises `NotFound`."""
    app, _, platform = name.partition("/")
    if app != request.app.name or platform not in {route for route, _ in request.app.accounts}:
        known = ", ".join(f"{request.app.name}/{route}" for route, _ in request.app.accounts)
        raise NotFound(f"The app has no route {name!r}; it has {known}.")
    return Route(app, platform)
