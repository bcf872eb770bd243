"""`pushsvc demo`: show the whole service on this machine, with nothing to install or to sign up for.

A script of pushes runs against a real service (embedded store, and the parts in processes of their own), the provider
simulator (TLS and HTTP/2 on loopback) and simulated phones. At a terminal a live view shows the counts; piped,
plain lines.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from ...client import AsyncClient, Retries
from ...errors import PushsvcError
from ...lab.demo.script import Scene, play
from ...lab.demo.view import open_view
from ...lab.playground import open_playground
from ...settings.environment import override
from .up import free_port
from .whole import open_service

Once = Annotated[bool, typer.Option("--once", help="Run the script once and exit with 0 if every step succeeded.")]


def demo(context: typer.Context, once: Once = False) -> None:
    """Show the service at work: pushes that arrive, fail and retry, phones that are online, silent and back, a dead
    token that is pruned, a held route that recovers.
    """
    started = time.monotonic()
    # All ways of asking it to end leave nothing behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: signal.raise_signal(signal.SIGINT))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pushsvc-demo-")))
        view = stack.enter_context(open_view(Console()))
        view.log("start", "store, simulator, API, dispatcher, gateway, feedback, jobs")
        playground = stack.enter_context(open_playground(folder, port=free_port(), live_port=free_port()))
        context.obj.config = playground.config_file
        settings = context.obj.settings()
        # The view shows what the parts would log of the trouble that the script makes.
        quiet = {"PUSHSVC__LOGGING__LEVEL": "critical"}
        environ = override(os.environ, quiet) if view.live else override(quiet, os.environ)

        async def run() -> None:
            async with open_service(settings, playground.config_file, environ) as service:
                view.log("ready", f"{service.url} after {time.monotonic() - started:.1f} s")
                async with AsyncClient(service.url, key=playground.api_key, retries=Retries(0.0)) as api:
                    scene = Scene(api, service.live_url, playground, view)
                    await play(scene)
                    while not once:
                        await scene.background_traffic()

        try:
            uvloop.run(run())
        except KeyboardInterrupt:
            view.log("stop", "as asked: everything has drained and ended")
            if once:
                raise typer.Exit(130) from None  # as a shell says it: the script was not played to its end
        except PushsvcError:
            view.close()
            raise
        else:
            view.log("done", f"every step succeeded, {time.monotonic() - started:.1f} s in total")
