"""`pushsvc devices export`: write the devices of an app to a file, page by page, in the order of registration.

The file is put in place once it is complete. Only its owner can read it, because it holds the device tokens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, nullcontext, suppress
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ..access import Key, Url
from ..files import replacing
from ..operator.operator import ExportedDevices, open_operator
from ..output import counted
from ..process import print_message
from ..running import run
from ..service.parts import until_signalled
from .files import format_of, progress
from .lines import Format, csv_of, header, ndjson_of


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
    url: Url = "",
    key: Key = "",
) -> None:
    """Write all devices of an app to a file.

    `pushsvc devices import` and other programs can read it.

    The file contains device tokens: protect it like a password. Only its owner can read it.
    """
    wanted = format_of(file, form)
    began = time.monotonic()
    count = run(_export(context, app, url, key, file, wanted, tombstones=tombstones))
    if count is None:
        raise typer.Exit(130)
    seconds = time.monotonic() - began
    written = f"{counted(count, 'device')} in {seconds:,.1f} s"
    print_message(f"{written}; the file contains their tokens: keep it safe")


async def _export(
    context: typer.Context, app: str, url: str, key: str, file: str, form: Format, *, tombstones: bool
) -> int | None:
    """Return the number of devices that were written, or None if the export was interrupted."""
    stop = until_signalled(hang_up=True)
    async with (
        open_operator(context, app, url, key) as operator,
        aclosing(operator.exporting(app, tombstones=tombstones)) as pages,
    ):
        to = nullcontext(sys.stdout.buffer) if file == "-" else replacing(Path(file))
        with suppress(Stopped), to as stream:
            return await write_devices(pages, stream, form, stop.is_set, tombstones=tombstones)
    return None


async def write_devices(
    pages: AsyncIterator[ExportedDevices],
    stream: BinaryIO,
    form: Format,
    stopping: Callable[[], bool],
    *,
    tombstones: bool,
) -> int:
    """Write pages of devices, and return the number of these. Raises `Stopped`."""
    from ...runtime.providers import addresses

    known = addresses()
    if form == "csv":
        stream.write(header(known, tombstones=tombstones))
    count = 0
    with progress(1.0) as show:
        async for page in pages:
            if stopping():
                raise Stopped
            if form == "csv":
                stream.write(csv_of(page.devices, known, tombstones=tombstones))
            else:
                stream.write(ndjson_of(page.devices, known))
            count += len(page.devices)
            show(page.done, count)
    stream.flush()
    return count
