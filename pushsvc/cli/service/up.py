"""`pushsvc up`: run the whole service in one command, on one machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from ...settings.loading import is_simulated
from ...settings.schema import Settings
from .children import Ready, children_of, forked_parts
from .parts import until_signalled, warn_of_environment

if TYPE_CHECKING:
    from rich.console import Console

    from ...lab.playground import Playground
    from ...lab.simulator.process import SimulatorHandle

Simulator = Annotated[
    bool, typer.Option("--simulator", help="Add an app `demo` whose providers are the simulator. Needs no accounts.")
]

SIMULATOR_LOOK = 1.0
"""Seconds between two checks that the simulator is running."""


def up(context: typer.Context, simulator: Simulator = False) -> None:
    """Run the whole service in one command: store, API, dispatchers, gateway, feedback, jobs."""
    settings: Settings = context.obj.read()
    if not simulator:
        settings.require_apps()
    config: Path | None = context.obj.config
    live = simulator or any(app.live for app in settings.apps.values())
    with ExitStack() as stack:
        ready = stack.enter_context(forked_parts(context.obj, settings, children_of(settings, live=live)))
        playground = None
        if simulator:
            from ...lab.playground import open_playground

            folder = playground_folder(settings)
            ports = {"port": settings.server.port, "live_port": settings.live.port}
            playground = stack.enter_context(open_playground(folder, **ports))
            context.obj.config = config = playground.config_file
            settings = context.obj.settings()
        uvloop.run(_run(settings, config, playground, ready))


def playground_folder(settings: Settings) -> Path:
    """Return the folder of the playground: the one whose own file the configuration is, or one in the data folder."""
    if settings.file is not None and is_simulated(settings.file):
        folder = settings.file.resolve().parent
        if settings.store.data_dir.resolve() == folder / "store":
            return folder
    return settings.store.data_dir / "playground"


async def _run(settings: Settings, config: Path | None, playground: Playground | None, ready: Ready) -> None:
    from ...telemetry import systemd
    from .whole import open_service

    stop = until_signalled()
    warn_of_environment("up")
    async with open_service(settings, config, os.environ, stop, ready) as service:
        print_text = message_printer()
        if stop.is_set():
            return
        systemd.notify_ready()
        # A terminal makes a link of all that follows `http://` up to a space.
        print_text(f"pushsvc listens on {service.url}")
        for name, path in (("console", "/console"), ("API page", "/docs"), ("metrics", "/metrics")):
            print_text(f"  {name:<9} {service.url}{path}")
        if service.live_url:
            print_text(f"  devices   {service.live_url}")
        if playground is None:
            await stop.wait()
        else:
            print_text(f"  APNs      {playground.simulator.apns_url} (simulator)")
            print_text(f"  FCM       {playground.simulator.fcm_url} (simulator)")
            print_text(f"API key of the app `demo`: {playground.api_key}\n\n{commands(playground)}")
            print_text(disturbances(playground.simulator))
            print_text(f"Try:\n{example(service.url, playground.api_key)}")
            await keep_simulator(playground, stop, print_text)
        print_text("stopping: what was accepted is sent or stays in the store")


async def keep_simulator(playground: Playground, stop: asyncio.Event, print_text: Callable[[str], None]) -> None:
    """Restart the simulator whenever its process has ended, and print that it did. Returns when `stop` is set."""
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SIMULATOR_LOOK)
        try:
            if not stop.is_set() and await asyncio.to_thread(playground.simulator.revive):
                print_text("the simulator's process had ended and was restarted; its record is empty")
        except RuntimeError as error:
            print_text(f"the simulator's process has ended and cannot be restarted: {error}")
            await stop.wait()


def message_printer(console: Console | None = None) -> Callable[[str], None]:
    """Return a function that prints a text on standard error without breaking its lines, so that commands can be
    copied. A log needs no colours, and so no rich."""
    if console is None and not sys.stderr.isatty():
        return lambda text: print(text, file=sys.stderr)
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)

    def print_text(text: str) -> None:
        console.print(text, markup=False, highlight=console.is_terminal, soft_wrap=True)

    return print_text


def commands(playground: Playground) -> str:
    """Return the shell line by which other commands find a playground."""
    folder = playground.config_file.parent
    return (
        "For the other commands:\n"
        f"  export PUSHSVC_CONFIG={shlex.quote(str(playground.config_file))} "
        f"PUSHSVC_KEY=$(cat {shlex.quote(str(folder / 'api-key'))})\n"
    )


def disturbances(simulator: SimulatorHandle) -> str:
    """Return curl commands that start a fault of the simulator, list all with their fields, and end them."""
    call = f"  curl -s --cacert {shlex.quote(str(simulator.credentials.ca_file))} {simulator.control_url}/control"
    title = "To disturb the simulator, list its faults, and end them:"
    return f'{title}\n{call}/stall -d \'{{"platform": "apns"}}\'\n{call}\n{call}/calm -X POST\n'


def example(url: str, api_key: str) -> str:
    """Return a curl command that works with a playground."""
    token = "8f3c" * 16
    return (
        f"  curl -s {url}/v1/push \\\n"
        f"    -H 'Authorization: Bearer {api_key}' \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        '    -d \'{"to": {"tokens": [{"platform": "apns", "token":\n'
        f'          "{token}"}}]}},\n'
        '        "notification": {"title": "Order 7 shipped", "body": "Arrives Friday"}}\'\n'
    )


def free_port() -> int:
    """Return a free TCP port.

    It lies below the range from which systems give ports to outgoing connections (from 32768 on Linux), so that no
    connection of another program takes it before our server does.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
