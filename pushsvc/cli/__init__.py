"""The command line: a table of commands, each loaded when it is called.

What a command prints goes to standard output, logs and errors to standard error. Exit codes: 0 ok, 1 failed, 2 wrong
usage, 130 stopped by Ctrl-C, 129 and 143 by SIGHUP and SIGTERM; 130 by each of the three where the command finishes a
step first (`until_signalled`). `root.py` runs a command. `main` sets up signals and standard streams (`process.py`)
before it imports `root.py`, so importing this package is cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

COMMANDS = {
    # name: (module:function or module:Typer, its text in `--help`)
    "demo": ("service.demo:demo", "Show the whole service at work in one command."),
    "init": ("init:init", "Write a first configuration, with comments."),
    "up": ("service.up:up", "Run the whole service on this machine."),
    "serve": ("service.parts:serve", "Run the HTTP API."),
    "dispatch": ("service.parts:dispatch", "Run the workers that send to the providers."),
    "feedback": ("service.parts:feedback", "Run the workers that act on dead tokens; lists no events."),
    "jobs": ("service.jobs:jobs", "Run the workers for audiences, replays and webhooks."),
    "live": ("service.parts:live", "Run the gateway to which devices connect."),
    "simulate": ("simulator.simulate:simulate", "Run the provider simulator, or simulated phones."),
    "send": ("pushes.send:send", "Send a push, from flags or a JSON file."),
    "status": ("pushes.status:status", "Show the status of a push, or follow it until it has ended."),
    "cancel": ("pushes.cancel:cancel", "Cancel the deliveries of a push that have not been sent."),
    "pushes": ("pushes.commands:pushes", "List pushes and schedules, show and cancel one."),
    "stats": ("stats.stats:stats", "Show queues, rates, outcomes and held routes."),
    "failed": ("pushes.failed:failed", "List dead letters: deliveries that failed permanently."),
    "replay": ("pushes.replay:replay", "Send dead letters again."),
    "devices": ("devices.commands:devices", "Show, delete, restore, import and export devices."),
    "users": ("users:users", "Erase a user."),
    "channels": ("channels:channels", "Create, list and delete broadcast channels (APNs)."),
    "webhooks": ("webhooks:webhooks", "Inspect, test and repair webhooks."),
    "cleanup": ("cleanup:cleanup", "Remove data that is no longer needed; for cron."),
    "keys": ("keys:keys", "Create, list and revoke API keys."),
    "bench": ("simulator.bench:bench", "Measure the running service under load, with the simulator."),
    "check": ("check:check", "Check the configuration, Redis and each credential."),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Expected errors are printed as text, without a traceback.

    Without `arguments`, runs the command line of this process and sets up signals and standard streams first.
    """
    if arguments is not None:
        from .root import run

        return run(list(arguments))
    from . import process

    return process.run()
