"""`pushsvc webhooks`: show the state of webhooks and the batches they failed to deliver, and deliver those again.

`list` and `resume` ask the API of a running service where a key is known; the others need the store of the
configuration. `test` makes its call from this machine; all other calls are made by `pushsvc jobs`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ..errors import ConfigError
from ..model.instants import instant, parse_instant as to_unix_ms
from ..ports.webhooks import DeadBatch
from .access import Key, Url
from .instants import parse_instant
from .operator.operator import Operator, operate
from .output import Json, command_group, counted, going_on, print_done, print_json, print_table
from .pushes.failed import apps_of
from .running import run

if TYPE_CHECKING:
    from ..ports.admin import WebhookState
    from ..ports.store import Store
    from ..ports.webhooks import Webhooks
    from ..settings import Settings
    from ..stages.webhooks.config import WebhookConfig

webhooks = command_group("Inspect, test and repair webhooks.")

LOOK = 0.2
"""Seconds between two looks."""
PATIENCE = 10.0
"""Seconds after which the command reports that nothing has started."""

AppName = Annotated[str, typer.Option("--app", help="The app.", metavar="APP")]
Apps = Annotated[str, typer.Option("--app", help="The app; by default all apps.", metavar="APP")]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="Only batches whose last event is at this time or later: 2026-12-01T09:00:00Z, or 2h.",
        metavar="TIME",
    ),
]
Until = Annotated[
    str, typer.Option("--until", help="Only batches whose last event is before this time.", metavar="TIME")
]

STANDING = ("app", "host", "state", "waiting since", "failures", "reason", "next call", "given up", "kind")
DEAD = ("app", "batch", "events", "attempts", "reason", "given up at")


@webhooks.command("list")
def list_webhooks(context: typer.Context, app: Apps = "", url: Url = "", key: Key = "", json: Json = False) -> None:
    """Show the state of each webhook.

    An app has one for each kind of events that it is sent.
    """
    found = operate(context, app, url, key, lambda operator: operator.webhooks())
    if json:
        print_json([_standing(name, state) for name, state in found])
        return
    print_table(
        STANDING,
        [
            [
                *(name, state.host, state.state, state.waiting_since or "", str(state.failures), state.reason),
                "" if state.next_call_in is None else f"in {state.next_call_in:,.0f} s",
                *(str(state.dead), state.kind),
            ]
            for name, state in found
        ],
        marks={"ok": "green", "failing": "yellow", "off": "bold red"},
    )


def _standing(app: str, state: WebhookState) -> dict[str, object]:
    """Return the state of a webhook with instants and spans in milliseconds."""
    return {
        "app": app,
        "kind": state.kind,
        "host": state.host,
        "state": state.state,
        "cursor": state.cursor,
        "waiting_since": _unix_ms(state.waiting_since),
        "attempts": state.attempts,
        "failures": state.failures,
        "reason": state.reason,
        "failing_since": _unix_ms(state.failing_since),
        "due_in": 0 if state.next_call_in is None else round(state.next_call_in * 1000),
        "off": state.state == "off",
        "dead": state.dead,
        "asked": state.asked,
    }


def _unix_ms(text: str | None) -> int | None:
    return None if text is None else to_unix_ms(text)


@webhooks.command("failed")
def failed(context: typer.Context, app: Apps = "", since: Since = "", until: Until = "", json: Json = False) -> None:
    """List the batches that were given up. `pushsvc webhooks redeliver` delivers them again."""
    span = parse_instant(since, option="--since"), parse_instant(until, option="--until")
    settings: Settings = context.obj.settings()
    found = run(_dead(settings, apps_of(settings, app), span))
    if json:
        print_json([{"app": name, **_shown(batch)} for name, batches in found.items() for batch in batches])
        return
    print_table(
        DEAD,
        [
            [name, batch.id, str(batch.events), str(batch.attempts), batch.reason, instant(batch.at)]
            for name, batches in found.items()
            for batch in batches
        ],
    )


@webhooks.command("redeliver")
def redeliver(
    context: typer.Context,
    app: Apps = "",
    since: Since = "",
    until: Until = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be delivered again.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it to finish.")] = False,
    json: Json = False,
) -> None:
    """Deliver the batches again that were given up.

    They come before new events. Exit with 1 if any of them fails again.

    Each batch is tried once; one that fails is kept, and the others are not tried if the receiver is in trouble. Needs
    a running `pushsvc jobs` (or `pushsvc up`), and continues if this command is interrupted.
    """
    span = parse_instant(since, option="--since"), parse_instant(until, option="--until")
    settings: Settings = context.obj.settings()
    if not run(_redeliver(settings, apps_of(settings, app), span, dry_run=dry_run, detach=detach, json=json)):
        raise typer.Exit(1)


@webhooks.command("resume")
def resume(context: typer.Context, app: AppName, url: Url = "", key: Key = "", json: Json = False) -> None:
    """Resume a webhook at once.

    It was switched off by a 410, or waits for its next attempt.
    """
    operate(context, app, url, key, lambda operator: _resume(operator, app), changes=True)
    print_done({"app": app, "resumed": True}, f"the webhook of {app} is resumed", json=json)


@webhooks.command("test")
def call(context: typer.Context, app: AppName, json: Json = False) -> None:
    """Call a webhook from this machine, without events. Exit with 1 if it does not answer with a 2xx status."""
    from ..stages.webhooks.caller import trial_call

    settings: Settings = context.obj.settings()
    config = _config_of(settings, app)
    began = time.monotonic()
    answer = run(trial_call(config, app, time.time_ns() // 1_000_000))
    good, seconds = 200 <= answer.status < 300, round(time.monotonic() - began, 3)
    report = {"app": app, "ok": good, "status": answer.status, "reason": answer.reason, "seconds": seconds}
    text = f"{config.host}: {'ok' if good else 'failed'}, {answer.reason} after {seconds:.3f} s"
    print_done(report, text, json=json)
    if not good:
        raise typer.Exit(1)


@webhooks.command("secret")
def secret(json: Json = False) -> None:
    """Generate a secret for `apps.NAME.webhook.secret` and print it."""
    from ..model.signing import write_secret

    made = write_secret(secrets.token_bytes(32))
    print_done({"secret": made}, made, json=json)


def _config_of(settings: Settings, app: str) -> WebhookConfig:
    from ..runtime import webhook_configs

    apps_of(settings, app)
    config = webhook_configs(settings).get(app)
    if config is None:
        raise no_webhook(app)
    return config


def no_webhook(app: str) -> ConfigError:
    """Return the error for an app without a webhook."""
    return ConfigError(f"apps.{app}.webhook.url", "the app has no webhook", "set `url` and `secret`")


def _shown(batch: DeadBatch) -> dict[str, object]:
    return {**msgspec.structs.asdict(batch), "at": instant(batch.at)}


Span = tuple[int | None, int | None]


def _all(store: Store) -> tuple[Webhooks, ...]:
    return store.webhooks, store.event_webhooks


async def _dead(settings: Settings, apps: list[str], span: Span) -> dict[str, list[DeadBatch]]:
    from ..runtime import open_running_store

    async with open_running_store(settings) as store:
        return {app: [batch for _, batch in await _dead_of(store, app, span)] for app in apps}


async def _dead_of(store: Store, app: str, span: Span) -> list[tuple[Webhooks, DeadBatch]]:
    """Return the dead batches of an app with the webhooks of their logs."""
    return [(each, batch) for each in _all(store) for batch in await each.dead(app, since=span[0], until=span[1])]


async def _resume(operator: Operator, app: str) -> None:
    if not await operator.webhooks():
        raise no_webhook(app)
    await operator.resume_webhooks(app)


async def _redeliver(
    settings: Settings, apps: list[str], span: Span, *, dry_run: bool, detach: bool, json: bool
) -> bool:
    from ..runtime import open_running_store

    async with open_running_store(settings) as store:
        found = {app: await _dead_of(store, app, span) for app in apps}
        wanted = {app: [batch for _, batch in own] for app, own in found.items() if own}
        told: dict[str, int] = {}
        if not dry_run:
            for app in wanted:
                _config_of(settings, app)
                for each in _all(store):
                    await each.ask_again(app, [batch for of, batch in found[app] if of is each])
        if not dry_run and not detach:
            with going_on(lambda: "`pushsvc jobs` continues it"):
                told = {app: await _follow(_all(store), app, dead) for app, dead in wanted.items()}
    batches = sum(map(len, wanted.values()))
    if json:
        shown = {app: [_shown(batch) for batch in dead] for app, dead in wanted.items()}
        print_json({"matched": batches, "batches": shown, "told": told})
    else:
        events = sum(batch.events for dead in wanted.values() for batch in dead)
        what = f"{counted(batches, 'batch', 'batches')} with {counted(events, 'event')}"
        done = f"{sum(told.values()):,} of {what} delivered" if batches else "no batch was given up"
        print(f"{what} would be redelivered" if dry_run else f"{what} will be redelivered" if detach else done)
    return dry_run or detach or sum(told.values()) == batches


async def _follow(logs: Sequence[Webhooks], app: str, batches: list[DeadBatch]) -> int:
    """Wait until each batch has been tried. Returns the number of batches that were delivered."""
    loop = asyncio.get_running_loop()
    ids = {batch.id for batch in batches}
    began, warned = loop.time(), False
    while left := ids.intersection([asked for each in logs for asked in await each.asked(app)]):
        if left == ids and not warned and loop.time() - began > PATIENCE:
            warned = True
            typer.echo("nothing has started yet: is `pushsvc jobs` running?", err=True)
        await asyncio.sleep(LOOK)
    return len(ids - {batch.id for each in logs for batch in await each.dead(app)})
