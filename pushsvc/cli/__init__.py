"""The command line: one line a command, each loaded when it is called.

What a command prints goes to standard output, logs and errors to standard error. Exit codes: 0 ok, 1 failed,
2 wrong usage, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PushsvcError
from .lazy import LazyCommand, lazy_group
from .state import State

COMMANDS = {
    # name: (module:function or module:Typer, what `--help` says)
    "demo": ("demo:demo", "See it all at work, in one command."),
    "up": ("up:up", "Run the whole service on this machine."),
    "serve": ("parts:serve", "Run the HTTP API."),
    "dispatch": ("parts:dispatch", "Run the workers that send to the providers."),
    "feedback": ("parts:feedback", "Run the loop that acts on dead tokens."),
    "jobs": ("jobs:jobs", "Run the workers that replay dead letters and tell webhooks."),
    "simulate": ("simulate:simulate", "Run the provider simulator: APNs and FCM on loopback."),
    "send": ("send:send", "Send a push, from flags or a JSON file."),
    "status": ("status:status", "Show where a push stands, or follow it to its end."),
    "cancel": ("cancel:cancel", "Cancel what has not been sent of a push."),
    "stats": ("stats:stats", "Show queues, rates, outcomes and held routes; --watch stays."),
    "failed": ("failed:failed", "List dead letters: deliveries that failed for good."),
    "replay": ("replay:replay", "Send dead letters again."),
    "devices": ("devices:devices", "See, delete, restore, import and export devices."),
    "users": ("users:users", "Erase a user."),
    "channels": ("channels:channels", "Make, list and delete broadcast channels (APNs)."),
    "webhooks": ("webhooks:webhooks", "See, try and repair the webhooks that tell feedback events."),
    "cleanup": ("cleanup:cleanup", "Remove what has outlived its use; for cron."),
    "keys": ("keys:keys", "Make, list and revoke API keys."),
    "bench": ("bench:bench", "Load the running service against the simulator."),
    "check": ("check:check", "Check the configuration, Redis and each credential."),
}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pushsvc {version('pushsvc')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="PUSHSVC_CONFIG", help="The configuration, a TOML file.", metavar="FILE"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Self-hosted push notifications: HTTP in, APNs and FCM out, nothing lost."""
    context.obj = State(config)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. An error of ours is one clear text, never a traceback."""
    root = lazy_group(
        _root, {name: LazyCommand(name, target, told, __package__) for name, (target, told) in COMMANDS.items()}
    )
    try:
        root.main(None if arguments is None else list(arguments), prog_name="pushsvc")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except PushsvcError as error:
        print(f"pushsvc: {error}", file=sys.stderr)
        return 1
    except BaseExceptionGroup as group:
        # Tasks that ran side by side failed. Anything that is not ours is a bug, and then the whole is shown.
        leaves = list(_leaves(group))
        if not all(isinstance(leaf, PushsvcError) for leaf in leaves):
            raise
        for text in dict.fromkeys(str(leaf) for leaf in leaves):
            print(f"pushsvc: {text}", file=sys.stderr)
        return 1
    return 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
