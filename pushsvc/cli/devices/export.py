"""`pushsvc devices export`: write the devices of an app to a file, page by page, in the order of registration.

The file is put in place once it is complete. Only its owner can read it, because it holds the device tokens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ..files import replacing
from ..output import counted
from ..pushes.failed import apps_of
from ..running import run
from ..service.parts import until_signalled
from .files import format_of, progress
from .lines import Format, csv_of, header, ndjson_of

if TYPE_CHECKING:
    from ...ports.registry import Registry
    from ...settings import Settings

PAGE = 1000


class Stopped(Exception):
    """The export was interrupted. No file is left behind."""


def export_devices(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="The file to write; `-` is standard output.", metavar="FILE")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    form: Annotated[
        str, typer.Option("--format", help="csv or ndjson; by default from the suffix of the file.", metavar="FORMAT")
    ] = "",
    tombstones: Annotated[bool, typer.Option("--tombstones", help="Include pruned devices.")] = False,
) -> None:
    """Write all devices of an app to a file.

    It is for `pushsvc devices import` or other programs.

    The file contains device tokens: protect it like a password. Only its owner can read it.
    """
    settings: Settings = context.obj.settings()
    apps_of(settings, app)
    wanted = format_of(file, form)
    began = time.monotonic()
    count = run(_export(settings, app, file, wanted, tombstones=tombstones))
    if count is None:
        raise typer.Exit(130)
    seconds = time.monotonic() - began
    written = f"{counted(count, 'device')} in {seconds:,.1f} s"
    typer.echo(f"{written}; the file contains their tokens: keep it safe", err=True)


async def _export(settings: Settings, app: str, file: str, form: Format, *, tombstones: bool) -> int | None:
    """Return the number of devices that were written, or None if the export was interrupted."""
    from ...runtime import open_running_store

    stop = until_signalled(hang_up=True)
    async with open_running_store(settings) as store:
        to = nullcontext(sys.stdout.buffer) if file == "-" else replacing(Path(file))
        with suppress(Stopped), to as stream:
            return await _write(store.registry, app, stream, form, stop.is_set, tombstones=tombstones)
    return None


async def _write(
    registry: Registry, app: str, stream: BinaryIO, form: Format, stopping: Callable[[], bool], *, tombstones: bool
) -> int:
    """Return the number of devices that were written. Raises `Stopped`."""
    from ...runtime import addresses

    known = addresses()
    if form == "csv":
        stream.write(header(known, tombstones=tombstones))
    count, cursor = 0, ""
    with progress(1.0) as show:
        while not stopping():
            page = await registry.scan(app, after=cursor, limit=PAGE)
            devices = [device for device in page.devices if tombstones or device.state == "active"]
            stream.write(
                ndjson_of(devices, known) if form == "ndjson" else csv_of(devices, known, tombstones=tombstones)
            )
            count += len(devices)
            show(page.done, count)
            if page.cursor is None:
                stream.flush()
                return count
            cursor = page.cursor
    raise Stopped
