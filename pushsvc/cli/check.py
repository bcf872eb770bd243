"""`pushsvc check`: find what would keep the service from working, with the fix beside each fault.

It reads the configuration, connects to the store or tries to start one, inspects the files of each credential and of
the live channel, and resolves the host names of webhooks. It contacts no provider: whether Apple or Google accept a
credential shows only when something is sent. If a store answers, it lists the routes that are currently held, including
those whose credentials were refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from msgspec import Struct, structs

from ..errors import ConfigError, StoreError, StoreUnavailable
from .files import FileFailed, temporary_folder
from .output import Json, counted, print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ..model.access import ApiKey
    from ..ports.removed import RemovedRoute
    from ..ports.store import Inspection, Store
    from ..settings import Settings

NOBODYS = "0" * 64
"""The SHA-256 of the key in `config/example.toml`."""

MARKS = {"ok": "green", "warning": "yellow", "error": "bold red"}


class Row(Struct, frozen=True):
    """A row of the table. `part` is a dotted key of the configuration, `fix` the remedy."""

    part: str
    level: Literal["ok", "warning", "error"]
    what: str
    fix: str = ""
    expires: float | None = None
    """Unix seconds, or None."""


def check(
    context: typer.Context,
    json: Json = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
) -> None:
    """Check the configuration, Redis and each credential, with the fix beside each fault. Exit with 1 on an error.

    Reads files and the store, and contacts no provider: whether Apple or Google accept a credential shows only when
    something is sent. Routes that the running service currently holds, for this or another reason, are shown as
    warnings.
    """
    rows = list(_rows(context.obj))
    bad = {"error", "warning"} if strict else {"error"}
    good = not any(row.level in bad for row in rows)
    if json:
        print_json({"ok": good, "findings": [structs.asdict(row) for row in rows]})
    else:
        print_table(
            ("", "part", "found", "fix"),
            [[row.level, row.part, row.what + _until(row), row.fix] for row in rows],
            prose=("part", "found", "fix"),
            marks=MARKS,
        )
    if not good:
        raise typer.Exit(1)


def _rows(state: Any) -> Iterator[Row]:
    try:
        settings: Settings = state.settings()
    except ConfigError as error:
        yield from _of_config_error(error)
        return
    yield Row("configuration", "ok", str(settings.file) if settings.file else "no file: defaults and environment")
    try:
        settings.require_apps()
    except ConfigError as error:
        yield Row(error.path, "error", error.message, error.remedy)
    yield from run(_store(settings))
    yield from _credentials(settings)
    yield from _live(settings)
    yield from run(_webhooks(settings))


def _of_config_error(error: ConfigError) -> Iterator[Row]:
    first, *faults = error.message.split("\n")
    if not faults:
        yield Row(error.path, "error", first, error.remedy)
    for fault in faults:
        part, _, what = fault.strip().partition(": ")
        yield Row(part, "error", what, f"in {error.path}")


async def _store(settings: Settings) -> list[Row]:
    """Return the rows about the store: the running one, or a temporary embedded one, so that the check leaves nothing
    behind.
    """
    from ..ports.provider import REMOVED
    from ..runtime import open_running_store, open_trial_store, routes_of, running_store_url

    where = settings.redis.shown or f"embedded under {settings.store.data_dir}"
    try:
        async with AsyncExitStack() as opened:
            runs = bool(await running_store_url(settings))
            if runs:
                opening = open_running_store(settings)
            else:
                where += ", not running"
                folder = opened.enter_context(temporary_folder("pushsvc-check-", settings.store.data_dir))
                opening = open_trial_store(settings, Path(folder))
            store = await opened.enter_async_context(opening)
            server = await store.inspect()
            durable = [await _durable(store, settings)]
            removed = judge_removed(settings, await store.removed(routes_of(settings), anywhere=False))
            held = judge_held({name: why for name, why in (await store.held()).items() if not why.startswith(REMOVED)})
            keys = judge_keys(settings, await store.keys.all() if runs else None)
    except ConfigError as error:
        return [Row(error.path, "error", error.message, error.remedy)]
    except StoreError as error:
        fix = "is Redis running there, and may this user run COMMAND, INFO and EVAL?" if settings.redis.url else ""
        fix = (isinstance(error, StoreUnavailable) and error.fix) or fix
        return [Row("redis", "error", f"{where}: {error}", fix), *judge_keys(settings, None)]
    except FileFailed as error:
        return [Row("store.data_dir", "error", f"no store can be tried: {error}", "name another folder")]
    return [
        *judge_server(where, server),
        *judge_permissions(server.forbidden),
        *judge_clocks(server.ahead),
        *durable,
        *_data_dir(settings),
        *keys,
        *held,
        *removed,
    ]


def judge_permissions(forbidden: Sequence[str]) -> Iterator[Row]:
    """Yield a row if this Redis user lacks permission for a command that the service runs. Pure."""
    if forbidden:
        yield Row(
            "redis",
            "error",
            f"this user may not run {', '.join(forbidden)} on `ps:*`: a script that is stopped half-way leaves what it "
            "had written",
            f"allow them: ACL SETUSER .. ~ps:* {' '.join(f'+{name.lower()}' for name in forbidden)}",
        )


def judge_clocks(apart: float) -> Iterator[Row]:
    """Yield a row if the clocks of Redis and of this machine differ, so that one of them is wrong. Pure."""
    if abs(apart) > 5:
        yield Row(
            "clock",
            "error" if abs(apart) > 60 else "warning",
            f"Redis' clock and this machine's differ by {abs(apart):,.0f} s; with a wrong one pushes expire too early "
            "or too late, and APNs and Google refuse our credentials (InvalidProviderToken, invalid_grant)",
            "synchronize the clocks, as by NTP (timedatectl)",
        )


def judge_held(held: Mapping[str, str]) -> Iterator[Row]:
    """Yield a row for each route that the running service currently holds.

    `held` maps `app/platform` to the reason. Pure.
    """
    for name, why in held.items():
        app, _, route = name.partition("/")
        yield Row(f"apps.{app}.{route.replace('/', '.')}", "warning", f"the route is currently held: {why}")


def judge_removed(settings: Settings, removed: Sequence[RemovedRoute]) -> Iterator[Row]:
    """Yield a row for each route with waiting deliveries that this configuration does not contain. Pure."""
    from ..runtime.accounts import removal_of

    for each in removed:
        yield Row(f"apps.{each.route.app}.{each.route.platform}", "warning", *removal_of(each, settings.apps))


def judge_keys(settings: Settings, stored: Sequence[ApiKey] | None) -> Iterator[Row]:
    """Yield a row for each app without an API key, and for each key of the example configuration.

    `stored` are the keys of the store, or None if it does not answer. Pure.
    """
    for name, app in settings.apps.items():
        part, makes = f"apps.{name}.keys", f"`pushsvc keys new --app {name} --name NAME` makes one in the store"
        usable = [key for key in app.keys if key.sha256 != NOBODYS]
        if len(usable) < len(app.keys):
            yield Row(part, "warning", "the configuration contains the key of the example", "remove it")
        count = sum(key.app == name for key in stored or ())
        if count:
            yield Row(part, "ok", f"{counted(count, 'API key')} in the store")
        elif not usable and stored is None:
            yield Row(part, "ok", "no API key in the configuration; the store was not asked", makes)
        elif not usable:
            yield Row(part, "warning", "no API key: nobody can push", makes)


async def _durable(store: Store, settings: Settings) -> Row:
    """Return the row about durability: whether the server flushes to disk on request and how long this takes, or its
    replicas.
    """
    if settings.queue.durability != "fsync":
        try:
            await store.pushes.ping()
        except StoreUnavailable as error:
            return Row("queue.durability", "error", str(error), "see the README on Redis that fails over")
        return Row("queue.durability", "ok", store.promise)
    try:
        seconds = await store.require_durable(settings.apps or ("check",))
    except ConfigError as error:
        return Row(error.path, "error", error.message, error.remedy)
    return Row("queue.durability", "ok", f"fsync: a flush takes {seconds:.2f} s here, so much later answers a POST")


def _data_dir(settings: Settings) -> Iterator[Row]:
    """Yield a row if the embedded store cannot write to its folder."""
    if settings.redis.url:
        return
    folder = settings.store.data_dir
    there = next((each for each in (folder, *folder.parents) if each.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield Row(
            "store.data_dir", "error", f"{there} cannot be written to", "change its owner, or name another folder"
        )


def judge_server(where: str, server: Inspection) -> Iterator[Row]:
    """Yield rows for the INFO of a server and the commands that it lacks. Pure."""
    if server.info is None or server.missing is None:
        what = (
            f"{where}: this user may not run INFO or COMMAND: its version, memory policy and files were not looked at"
        )
        yield Row("redis", "warning", what, "allow them: ACL SETUSER .. +info +command")
        return
    # A cluster may answer once a node: {node: its INFO}.
    nodes = (each for each in server.info.values() if isinstance(each, dict) and "redis_version" in each)
    info = next(nodes, server.info)
    name = "Valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version") or "of unknown version"
    if server.missing:
        names = ", ".join(server.missing)
        yield Row("redis", "error", f"{where}: {name} {version} lacks {names}", "use Redis 6.2 or newer, or Valkey")
    else:
        yield Row("redis", "ok", f"{where}: {name} {version}")
    if info.get("maxmemory") and info.get("maxmemory_policy") not in (None, "noeviction"):
        yield Row(
            "redis",
            "warning",
            f"a full {name} drops keys ({info['maxmemory_policy']}): accepted pushes could vanish",
            "set maxmemory-policy noeviction",
        )
    # INFO says of good replicas only where min-replicas-to-write is set.
    if info.get("connected_slaves") and "min_slaves_good_slaves" not in info:
        yield Row(
            "redis",
            "warning",
            f"{name} has replicas and takes writes without them: a failover loses what none of them has",
            "set min-replicas-to-write 1 and min-replicas-max-lag 10 on the primary and its replicas",
        )
    if str(info.get("aof_enabled", 1)) == "0":
        yield Row(
            "redis",
            "warning",
            f"{name} keeps no append-only file: a restart loses what was accepted since the last snapshot",
            "set appendonly yes",
        )


def _credentials(settings: Settings) -> Iterator[Row]:
    from ..runtime import check_credentials

    for part, finding in check_credentials(settings):
        yield Row(part, finding.level, finding.what, finding.remedy, finding.expires)


def _live(settings: Settings) -> Iterator[Row]:
    from ..runtime import check_live

    for part, finding in check_live(settings):
        yield Row(part, finding.level, finding.what, finding.remedy, finding.expires)


async def _webhooks(settings: Settings) -> list[Row]:
    from ..runtime import webhook_configs
    from ..stages import webhooks

    return [
        Row(f"apps.{app}.webhook", finding.level, finding.what, finding.remedy)
        for app, config in webhook_configs(settings).items()
        for finding in await webhooks.check(config, app)
    ]


def _until(row: Row) -> str:
    if row.expires is None:
        return ""
    return f" (until {datetime.fromtimestamp(row.expires, UTC):%Y-%m-%d})"
