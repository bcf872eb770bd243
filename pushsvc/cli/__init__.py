"""The command line: one line a command, each loaded when it is called.

What a command prints goes to standard output, logs and errors to standard error. Exit codes: 0 ok, 1 failed,
2 wrong usage, 130 stopped by Ctrl-C, 129 and 143 by SIGHUP and SIGTERM. `root.py` runs a command; before it is even
imported, `main` has signals and standard streams in hand (`process.py`), so importing this package costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = {
    # name: (module:function or module:Typer, what `--help` says)
    "demo": ("demo:demo", "Show the whole service at work, in one command."),
    "up": ("up:up", "Run the whole service on this machine."),
    "serve": ("parts:serve", "Run the HTTP API."),
    "dispatch": ("parts:dispatch", "Run the workers that send to the providers."),
    "feedback": ("parts:feedback", "Run the loop that acts on dead tokens."),
    "jobs": ("jobs:jobs", "Run the workers for audiences, replays and webhooks."),
    "simulate": ("simulate:simulate", "Run the provider simulator: APNs and FCM on loopback."),
    "send": ("send:send", "Send a push, from flags or a JSON file."),
    "status": ("status:status", "Show where a push stands, or follow it to its end."),
    "cancel": ("cancel:cancel", "Cancel what has not been sent of a push."),
    "stats": ("stats:stats", "Show queues, rates, outcomes and held routes; --watch stays."),
    "failed": ("failed:failed", "List dead letters: deliveries that failed for good."),
    "replay": ("replay:replay", "Send dead letters again."),
    "devices": ("devices:devices", "Show, delete, restore, import and export devices."),
    "users": ("users:users", "Erase a user."),
    "channels": ("channels:channels", "Make, list and delete broadcast channels (APNs)."),
    "webhooks": ("webhooks:webhooks", "Inspect, test and repair webhooks."),
    "cleanup": ("cleanup:cleanup", "Remove what has outlived its use; for cron."),
    "keys": ("keys:keys", "Make, list and revoke API keys."),
    "bench": ("bench:bench", "Load the running service against the simulator."),
    "check": ("check:check", "Check the configuration, Redis and each credential."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. An error of ours is one clear text, never a traceback.

    Without `arguments` this is the process's own command line: signals and standard streams are made safe first.
    """
    if arguments is not None:
        from .root import run

        return run(list(arguments))
    from . import process

    return process.run()
