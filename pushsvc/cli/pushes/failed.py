"""`pushsvc failed`: show why deliveries failed permanently, and list them.

It asks the API of a running service where a key is known, or else reads the store of the configuration.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ...errors import ConfigError
from ...model.instants import instant
from ...ports.letters import DeadFilter
from ...wording import did_you_mean
from ..access import Key, Url
from ..instants import age_of, instant_option
from ..output import Json, cell, counted, print_json, print_table
from ..process import print_message

if TYPE_CHECKING:
    from ...api.admin.document import FailedGroup
    from ...settings.schema import Settings

REASONS = ("deliveries", "reason", "retryable", "since", "last", "platform", "status", "app", "what to do")
LESSER = ("status", "app", "last", "platform")
"""The columns of reasons that a narrow terminal does without, the first to go first."""
COLUMNS = ("at", "app", "push_id", "platform", "reason", "status", "attempts", "device_id", "token_hash")
PAGE = 1000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

PushId = Annotated[str, typer.Option("--push", help="Only dead letters of this push.", metavar="ID")]
AppName = Annotated[str, typer.Option("--app", help="Only those of this app; by default all apps.", metavar="APP")]
Platform = Annotated[str, typer.Option("--platform", help="Only those of this platform.", metavar="PLATFORM")]
Reason = Annotated[str, typer.Option("--reason", help="Only those that failed with this reason.", metavar="REASON")]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        help="Only those that failed since this time: 2026-12-01T09:00:00Z, or 2h.",
        metavar="TIME",
    ),
]
Until = Annotated[str, typer.Option("--until", help="Only those that failed before this time.", metavar="TIME")]


def failed(
    context: typer.Context,
    push: PushId = "",
    app: AppName = "",
    platform: Platform = "",
    reason: Reason = "",
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many rows.", metavar="N")] = 100,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Show why deliveries failed permanently, and list these dead letters. `pushsvc replay` sends them again.

    First come the reasons, the most frequent first: how many deliveries, since when, whether a replay may succeed
    though nothing of the pushes is corrected, and what to do. They are those of up to 100,000 dead letters.
    """
    from ..operator.operator import operate

    which = chosen(push, platform, reason, since, until)
    found = operate(context, app, url, key, lambda operator: operator.failed(which, limit))
    shown = [{**msgspec.structs.asdict(row), "app": name, "at": instant(row.at)} for name, row in found.rows]
    groups = [(name, group) for name, reasons in found.reasons.items() for group in reasons.groups]
    complete = all(reasons.complete for reasons in found.reasons.values())
    warn_of_reason(which, found.matched)
    if json:
        why = [{"app": name, **msgspec.structs.asdict(group)} for name, group in groups]
        print_json({"matched": found.matched, "groups": why, "complete": complete, "items": shown})
        return
    if groups:
        print_table(REASONS, [_reason(*each) for each in groups], prose=("what to do",), lesser=LESSER)
    if not complete:
        print_message("more failed than were counted for these reasons; --since and --until narrow it")
    rows = [[cell(row[name]) for name in COLUMNS] for row in shown]
    print_table(COLUMNS, rows, none=counted(0, "dead letter"))
    if found.matched > len(shown):
        print_message(f"{len(shown):,} of {found.matched:,}; --limit shows more")


def _reason(app: str, group: FailedGroup) -> list[str]:
    """Return the row of a reason, for people with ages instead of instants."""
    since, last = (age_of(at) if sys.stdout.isatty() else at for at in (group.first_at, group.last_at))
    again = "yes" if group.retryable else "no"
    counts = f"{group.count:,}", group.reason, again, since, last
    return [*counts, group.platform, str(group.status), app, group.remedy]


def chosen(push: str, platform: str, reason: str, since: str, until: str) -> DeadFilter:
    """Return the filter that the options describe. Ends with wrong usage for an unknown platform or a malformed id."""
    require_platform(platform)
    return DeadFilter(
        push=checked_id(push, "--push: ") if push else "",
        platform=platform,
        reason=reason,
        since=instant_option(since, option="--since"),
        until=instant_option(until, option="--until"),
    )


def warn_of_reason(which: DeadFilter, matched: int) -> None:
    """Report that nothing has failed for the reason that was asked for: it may be a typo."""
    if which.reason and not matched:
        print_message(
            f"no dead letter that is asked for has the reason {which.reason!r}; `pushsvc failed` shows those there are"
        )


def checked_id(text: str, option: str = "") -> str:
    """Return the id of a push. Ends with wrong usage (2) for what cannot be one, with the `option` that has it."""
    if not _UUID.fullmatch(text):
        raise typer.BadParameter(f"{option}{text!r} is not the id of a push; ids are UUIDs")
    return text.lower()


def require_platform(platform: str) -> None:
    """End with wrong usage (2) if the platform is unknown."""
    if platform:
        from ...runtime.providers import renderers

        known = renderers()
        if platform not in known:
            raise typer.BadParameter(f"--platform: unknown platform {platform!r}; {did_you_mean(platform, known)}")


def apps_of(settings: Settings, app: str) -> list[str]:
    """Return the named app, or all apps. Raises `ConfigError` for an unknown app, and if no app is configured."""
    if not settings.apps:
        settings.require_apps()
    if app and app not in settings.apps:
        raise ConfigError(f"apps.{app}", "no such app in the configuration", did_you_mean(app, settings.apps))
    return [app] if app else list(settings.apps)
