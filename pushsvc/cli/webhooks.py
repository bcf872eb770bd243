"""`pushsvc webhooks`: show the state of webhooks and the batches they failed to deliver, and deliver those again.

They ask the API of a running service where a key is known, or else use the store of the configuration. `test` makes
its call from there or, without a service, from this machine; all other calls are made by `pushsvc jobs`.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec
import typer

from ..model.instants import parse_instant
from .access import Key, Url
from .instants import instant_option
from .operator.operator import Operator, operate
from .output import Json, command_group, counted, note_interrupt, print_done, print_items, print_json, print_table
from .process import print_message

if TYPE_CHECKING:
    from ..ports.admin import DeadBatchRow, WebhookState

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

Span: TypeAlias = tuple[int | None, int | None]
Dead: TypeAlias = "dict[str, list[DeadBatchRow]]"

STANDING = ("app", "host", "state", "waiting since", "failures", "reason", "next call", "given up", "kind")
DEAD = ("app", "batch", "events", "attempts", "reason", "given up at")


@webhooks.command("list")
def list_webhooks(context: typer.Context, app: Apps = "", url: Url = "", key: Key = "", json: Json = False) -> None:
    """Show the state of each webhook.

    An app has one for each kind of events that it is sent.
    """
    found = operate(context, app, url, key, lambda operator: operator.webhooks())
    if json:
        print_items(_standing(name, state) for name, state in found)
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
        none=counted(0, "webhook"),
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
    return None if text is None else parse_instant(text)


@webhooks.command("failed")
def failed(
    context: typer.Context,
    app: Apps = "",
    since: Since = "",
    until: Until = "",
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """List the batches that were given up. `pushsvc webhooks redeliver` delivers them again."""
    span = _span(since, until)
    found = operate(context, app, url, key, lambda operator: operator.dead_batches(*span))
    if json:
        print_items({"app": name, **msgspec.structs.asdict(batch)} for name, batch in found)
        return
    print_table(
        DEAD,
        [[name, batch.id, str(batch.events), str(batch.attempts), batch.reason, batch.at] for name, batch in found],
        none=counted(0, "batch", "batches"),
    )


@webhooks.command("redeliver")
def redeliver(
    context: typer.Context,
    app: Apps = "",
    since: Since = "",
    until: Until = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be delivered again.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for it to finish.")] = False,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Deliver again the batches that were given up.

    They come before new events. Exit with 1 if any of them fails again.

    Each batch is tried once; one that fails is kept, and the others are not tried if the receiver is in trouble. Needs
    a running `pushsvc jobs` (or `pushsvc up`), and continues if this command is interrupted.
    """
    span = _span(since, until)

    async def act(operator: Operator) -> tuple[Dead, dict[str, int]]:
        wanted: Dead = {}
        for name, batch in await operator.dead_batches(*span):
            wanted.setdefault(name, []).append(batch)
        delivered: dict[str, int] = {}
        if not dry_run:
            for name in wanted:
                await operator.redeliver(name, *span)
        if not dry_run and not detach:
            with note_interrupt(lambda: "`pushsvc jobs` continues it"):
                delivered = {name: await _follow(operator, name, batches, span) for name, batches in wanted.items()}
        return wanted, delivered

    wanted, delivered = operate(context, app, url, key, act, changes=not dry_run)
    batches = sum(map(len, wanted.values()))
    if json:
        print_json({"matched": batches, "batches": wanted, "delivered": delivered})
    else:
        events = sum(batch.events for dead in wanted.values() for batch in dead)
        what = f"{counted(batches, 'batch', 'batches')} with {counted(events, 'event')}"
        done = f"{sum(delivered.values()):,} of {what} delivered" if batches else "no batch was given up"
        print(f"{what} would be redelivered" if dry_run else f"{what} will be redelivered" if detach else done)
    if not (dry_run or detach or sum(delivered.values()) == batches):
        raise typer.Exit(1)


@webhooks.command("resume")
def resume(context: typer.Context, app: AppName, url: Url = "", key: Key = "", json: Json = False) -> None:
    """Resume a webhook at once.

    It was switched off by a 410, or waits for its next attempt.
    """
    operate(context, app, url, key, lambda operator: operator.resume_webhooks(app), changes=True)
    print_done({"app": app, "resumed": True}, f"the webhook of {app} is resumed", json=json)


@webhooks.command("test")
def call(context: typer.Context, app: AppName, url: Url = "", key: Key = "", json: Json = False) -> None:
    """Call a webhook without events. Exit with 1 if it does not answer with a 2xx status.

    With an API key the running service makes the call, otherwise this machine.
    """
    found = operate(context, app, url, key, lambda operator: operator.test_webhook(app))
    report = {"app": app, "ok": found.ok, "status": found.status, "reason": found.reason, "seconds": found.seconds}
    text = f"{found.host}: {'ok' if found.ok else 'failed'}, {found.reason} after {found.seconds:.3f} s"
    print_done(report, text, json=json)
    if not found.ok:
        raise typer.Exit(1)


@webhooks.command("secret")
def secret(json: Json = False) -> None:
    """Generate a secret for `apps.NAME.webhook.secret` and print it."""
    from ..model.signing import write_secret

    made = write_secret(secrets.token_bytes(32))
    print_done({"secret": made}, made, json=json)


def _span(since: str, until: str) -> Span:
    return instant_option(since, option="--since"), instant_option(until, option="--until")


async def _follow(operator: Operator, app: str, batches: list[DeadBatchRow], span: Span) -> int:
    """Wait until each batch has been tried. Returns the number of batches that were delivered."""
    loop = asyncio.get_running_loop()
    began, warned = loop.time(), False
    async with aclosing(operator.redelivering(app, LOOK)) as looks:
        async for left in looks:
            if not left:
                break
            if left >= len(batches) and not warned and loop.time() - began > PATIENCE:
                warned = True
                print_message("nothing has started yet: is `pushsvc jobs` running?")
    still = {batch.id for name, batch in await operator.dead_batches(*span) if name == app}
    return len({batch.id for batch in batches} - still)
