"""What a check finds: everything that would keep the service from working, with the fix beside each fault.

Configuration, store, files of credentials and of the live channel, and the host names of webhooks are looked at; no
provider is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

from ...errors import ConfigError, PushsvcError, StoreError, StoreFormat, StoreUnavailable
from ...model.access import ApiKey
from ...ports.admin import CheckFinding
from ...ports.conditions import Condition
from ...ports.provider import REMOVED
from ...ports.store import Inspection, Store
from ...ports.work import RemovedRoute
from ...settings.schema import Settings
from ...stages.webhooks.checks import check
from ..plans import routes_of, webhook_configs
from ..providers import check_credentials
from ..state.conditions import parts_of, read_conditions
from ..state.removal import removal_of
from ..store import open_running_store, open_trial_store, running_store_url
from .configuration import check_environment, check_on_disk, in_use
from .jobs import check_jobs
from .live import check_live

HELD: Final = "the route is currently held"


async def check_running(settings: Settings, store: Store) -> list[CheckFinding]:
    """Return everything that a check finds while this store is open."""
    try:
        found = await check_store(settings, store, shown(settings), runs=True)
    except StoreError as error:
        found = [_unusable(settings, shown(settings), error), *judge_keys(settings, None)]
    shared = [row for row in check_environment() if "APPS" not in row.fix]  # a key sees its own app alone
    whole = [*check_on_disk(settings), *shared, *judge_traces(settings)]
    return once([*whole, *found, *await check_files(settings)])


async def check_all(settings: Settings, folder: Callable[[], AbstractContextManager[Path]]) -> list[CheckFinding]:
    """Return everything that a check finds. Where no store runs, an embedded one is tried in a temporary `folder`, so
    that nothing is left behind."""
    rows = [in_use(settings), *check_environment(), *judge_traces(settings)]
    try:
        settings.require_apps()
    except ConfigError as error:
        rows.append(CheckFinding(error.path, "error", error.message, error.remedy))
    return once([*rows, *await _try_store(settings, folder), *await check_files(settings)])


def once(rows: Sequence[CheckFinding]) -> list[CheckFinding]:
    """Return the findings without held routes of which the cause is found, with its fix. Pure."""
    wrong = {row.part.replace("/", ".") for row in rows if row.level == "error"}
    return [row for row in rows if not (row.part in wrong and row.what.startswith(HELD))]


async def _try_store(settings: Settings, folder: Callable[[], AbstractContextManager[Path]]) -> list[CheckFinding]:
    """Return the findings about the store: the running one, or a temporary embedded one."""
    where = shown(settings)
    try:
        async with AsyncExitStack() as opened:
            runs = bool(await running_store_url(settings))
            if runs:
                opening = open_running_store(settings)
            else:
                where += ", not running"
                opening = open_trial_store(settings, opened.enter_context(folder()))
            store = await opened.enter_async_context(opening)
            return await check_store(settings, store, where, runs=runs)
    except ConfigError as error:
        return [CheckFinding(error.path, "error", error.message, error.remedy)]
    except StoreError as error:
        return [_unusable(settings, where, error), *judge_keys(settings, None)]
    except PushsvcError as error:  # no folder can be made
        return [CheckFinding("store.data_dir", "error", f"no store can be tried: {error}", "name another folder")]


async def check_store(settings: Settings, store: Store, where: str, *, runs: bool) -> list[CheckFinding]:
    """Return the findings about an open store. Raises `StoreError`. `runs`: it is that of the running service."""
    server = await store.inspect()
    durable = await _durable(store, settings)
    removed = judge_removed(settings, await store.removed(routes_of(settings), anywhere=False))
    held = {name: why for name, why in (await store.held()).items() if not why.startswith(REMOVED)}
    keys = judge_keys(settings, await store.keys.all() if runs else None)
    silent: list[CheckFinding] = []
    if runs and await store.workers.living():  # otherwise the service is yet to be started
        silent = list(judge_conditions(await read_conditions(settings, store)))
    return [
        *judge_server(where, server),
        *judge_permissions(server.forbidden),
        *judge_identity(server.unidentified),
        *await check_jobs(settings),
        *judge_clocks(server.ahead),
        durable,
        *_data_dir(settings),
        *keys,
        *silent,
        *judge_held(held),
        *removed,
    ]


async def check_files(settings: Settings) -> list[CheckFinding]:
    """Return the findings about credentials, the live channel and webhooks."""
    found = [
        CheckFinding(part, finding.level, finding.what, finding.remedy, finding.expires)
        for part, finding in (*check_credentials(settings), *check_live(settings))
    ]
    for app, config in webhook_configs(settings).items():
        part = f"apps.{app}.webhook"
        found += [CheckFinding(part, each.level, each.what, each.remedy) for each in await check(config, app)]
    return found


def shown(settings: Settings) -> str:
    """Return where the store is, as people read it."""
    return settings.redis.shown or f"embedded under {settings.store.data_dir}"


def judge_traces(settings: Settings) -> list[CheckFinding]:
    """Return the finding where traces are on and the environment says something about them that cannot be used: no part
    starts."""
    if not settings.traces.share:
        return []
    from ...telemetry import otel

    found = []
    for usable in (otel.exporting, partial(otel.sampling, share=settings.traces.share)):
        try:
            usable(os.environ)
        except ConfigError as error:
            found.append(CheckFinding(error.path, "error", error.message, error.remedy))
    return found


def _unusable(settings: Settings, where: str, error: StoreError) -> CheckFinding:
    if isinstance(error, StoreFormat):
        return CheckFinding("redis", "error", f"{where}: {error.message}", error.fix)
    fix = "is Redis running there, and may this user run COMMAND, INFO and EVAL?" if settings.redis.url else ""
    fix = (isinstance(error, StoreUnavailable) and error.fix) or fix
    return CheckFinding("redis", "error", f"{where}: {error}", fix)


def judge_permissions(forbidden: Sequence[str]) -> Iterator[CheckFinding]:
    """Yield a row if this Redis user lacks permission for a command that the service runs. Pure."""
    if forbidden:
        yield CheckFinding(
            "redis",
            "error",
            f"this user may not run {', '.join(forbidden)} on `ps:*`: a script that is stopped half-way leaves what it "
            "had written",
            f"allow them: ACL SETUSER .. ~ps:* {' '.join(f'+{name.lower()}' for name in forbidden)}",
        )


def judge_identity(unidentified: Sequence[str]) -> Iterator[CheckFinding]:
    """Yield a row if there are nodes of a cluster whose restarts are not noticed. Pure."""
    if unidentified:
        yield CheckFinding(
            "redis",
            "warning",
            f"this user may not run INFO on {', '.join(unidentified)}: a restart there is not noticed, and if it loses "
            "writes, an earlier outcome may be recorded on a later delivery",
            "allow it on every node, as each has its own users: ACL SETUSER .. +info",
        )


def judge_clocks(apart: float) -> Iterator[CheckFinding]:
    """Yield a row if the clocks of Redis and of this machine differ, so that one of them is wrong. Pure."""
    if abs(apart) > 5:
        yield CheckFinding(
            "clock",
            "error" if abs(apart) > 60 else "warning",
            f"Redis' clock and this machine's differ by {abs(apart):,.0f} s; with a wrong one pushes expire too early "
            "or too late, and APNs and Google refuse our credentials (InvalidProviderToken, invalid_grant)",
            "synchronize the clocks, as by NTP (timedatectl)",
        )


def judge_held(held: Mapping[str, str]) -> Iterator[CheckFinding]:
    """Yield a row for each route that the running service currently holds. `held` maps `app/platform` to the reason.
    Pure."""
    for name, why in held.items():
        app, _, route = name.partition("/")
        _, cause, remedy = parts_of(why)
        yield CheckFinding(f"apps.{app}.{route.replace('/', '.')}", "warning", f"{HELD}: {cause}", remedy)


def judge_conditions(conditions: Sequence[Condition]) -> Iterator[CheckFinding]:
    """Yield a finding for what no process of the running service serves, and for what else is in trouble beside held
    routes. What concerns an app is named as its configuration, so that it is shown to that app alone. Pure."""
    for each in conditions:
        if each.kind in ("emptied", "unserved", "silent", "frozen", "webhook"):
            yield CheckFinding(_part_of(each), "warning", each.cause, each.remedy)


def _part_of(condition: Condition) -> str:
    """Return the dotted key for what a condition is about: `shop/fcm/apple`, `live shop`, or an app."""
    app, what = condition.app, condition.what
    if not app:
        return what
    if condition.kind == "webhook":
        return f"apps.{app}.webhook"
    own = what.removeprefix(f"{app}/").removesuffix(f" {app}")
    return f"apps.{app}.{own.replace('/', '.')}"


def judge_removed(settings: Settings, removed: Sequence[RemovedRoute]) -> Iterator[CheckFinding]:
    """Yield a row for each route with waiting deliveries that this configuration does not contain. Pure."""
    for each in removed:
        yield CheckFinding(f"apps.{each.route.app}.{each.route.platform}", "warning", *removal_of(each, settings.apps))


def judge_keys(settings: Settings, stored: Sequence[ApiKey] | None) -> Iterator[CheckFinding]:
    """Yield a row for each app with API keys in the store, or with none in the configuration.

    `stored` are the keys of the store, or None if it does not answer. Pure.
    """
    for name, app in settings.apps.items():
        part, makes = f"apps.{name}.keys", f"`pushsvc keys new --app {name} --name NAME` makes one in the store"
        if count := sum(key.app == name for key in stored or ()):
            yield CheckFinding(part, "ok", f"{count:,} API key{'s' * (count != 1)} in the store")
        elif not app.keys and stored is None:
            what = "no API key in the configuration; those in the store can be read once it runs"
            yield CheckFinding(part, "ok", what, f"if there is none, {makes}")
        elif not app.keys:
            yield CheckFinding(part, "warning", "no API key: no caller can push", makes)


async def _durable(store: Store, settings: Settings) -> CheckFinding:
    """Return the row about durability: whether the server flushes to disk on request and how long this takes, or its
    replicas."""
    if settings.queue.durability != "fsync":
        try:
            await store.pushes.ping()
        except StoreUnavailable as error:
            return CheckFinding("queue.durability", "error", str(error), "see the guide on Redis that fails over")
        return CheckFinding("queue.durability", "ok", store.durability)
    try:
        seconds = await store.require_durable(settings.apps or ("check",))
    except ConfigError as error:
        return CheckFinding(error.path, "error", error.message, error.remedy)
    return CheckFinding(
        "queue.durability", "ok", f"fsync: a flush takes {seconds:.2f} s here, and each POST waits for it"
    )


def _data_dir(settings: Settings) -> Iterator[CheckFinding]:
    """Yield a row if the embedded store cannot write to its folder."""
    if settings.redis.url:
        return
    folder = settings.store.data_dir
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield CheckFinding(
            "store.data_dir", "error", f"{there} cannot be written to", "change its owner, or name another folder"
        )


def judge_server(where: str, server: Inspection) -> Iterator[CheckFinding]:
    """Yield rows for the INFO of a server and the commands that it lacks. Pure."""
    if server.info is None or server.missing is None:
        what = (
            f"{where}: this user may not run INFO or COMMAND: its version, memory policy and files were not looked at"
        )
        yield CheckFinding("redis", "warning", what, "allow them: ACL SETUSER .. +info +command")
        return
    # A cluster may answer once a node: {node: its INFO}.
    nodes = (each for each in server.info.values() if isinstance(each, dict) and "redis_version" in each)
    info = next(nodes, server.info)
    name = "Valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version") or "of unknown version"
    if server.missing:
        names = ", ".join(server.missing)
        yield CheckFinding(
            "redis", "error", f"{where}: {name} {version} lacks {names}", "use Redis 6.2 or newer, or Valkey"
        )
    else:
        yield CheckFinding("redis", "ok", f"{where}: {name} {version}")
    if info.get("maxmemory") and info.get("maxmemory_policy") not in (None, "noeviction"):
        yield CheckFinding(
            "redis",
            "error",
            f"a full {name} drops keys ({info['maxmemory_policy']}): accepted pushes could vanish",
            "set maxmemory-policy noeviction",
        )
    # INFO says of good replicas only where min-replicas-to-write is set.
    if info.get("connected_slaves") and "min_slaves_good_slaves" not in info:
        yield CheckFinding(
            "redis",
            "warning",
            f"{name} has replicas and takes writes without them: a failover loses what none of them has",
            "set min-replicas-to-write 1 and min-replicas-max-lag 10 on the primary and its replicas",
        )
    if str(info.get("aof_enabled", 1)) == "0":
        yield CheckFinding(
            "redis",
            "warning",
            f"{name} keeps no append-only file: a restart loses what was accepted since the last snapshot",
            "set appendonly yes",
        )
