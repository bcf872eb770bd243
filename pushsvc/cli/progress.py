"""The progress of a command: bars at a terminal, lines when piped, nothing where it is not wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


class NoBars:
    """Takes what `Progress` of rich takes, and shows nothing."""

    def add_task(self, *_: Any, **__: Any) -> Any: ...

    update = advance = add_task


@contextmanager
def open_bars(
    stream: TextIO, *columns: str, quiet: bool = False, transient: bool = False
) -> Iterator[Progress | NoBars]:
    """Open bars on a stream if it is a terminal, and not `quiet`. Those that are `transient` are gone at the end.

    Behind each bar stand the columns: `count`, `share`, `elapsed` and `remaining` by their names, others as texts with
    fields of their task.
    """
    if quiet or not stream.isatty():
        yield NoBars()
        return
    from rich import progress as rich
    from rich.console import Console

    named = {
        "count": rich.MofNCompleteColumn,
        "share": rich.TaskProgressColumn,
        "elapsed": rich.TimeElapsedColumn,
        "remaining": rich.TimeRemainingColumn,
    }
    shown = [named[each]() if each in named else rich.TextColumn(each, markup=False) for each in columns]
    what = rich.TextColumn("{task.description}", markup=False)
    with rich.Progress(what, rich.BarColumn(), *shown, console=Console(file=stream), transient=transient) as bars:
        yield bars


class ChangedLines:
    """Prints a line where it differs from the last one, if standard output is no terminal, and not `quiet`."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or sys.stdout.isatty()
        self._last = ""

    def show(self, line: str) -> None:
        if not self._quiet and line != self._last:
            print(line, flush=True)
            self._last = line
