"""The output of commands: JSON for programs, tables and plain lines for people."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated

import msgspec
import typer

from .process import print_message

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def command_group(text: str) -> typer.Typer:
    """Return a group of commands, to which `--help` gives this text."""
    return typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=text)


class Missing(typer.BadParameter):
    """Wrong usage (exit code 2): a required value was not given."""

    def format_message(self) -> str:
        return self.message


COUNTS = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled", "retrying", "queued")
"""The counts in the order of their interest; together they are the total."""


def print_json(value: object) -> None:
    """Print one indented JSON document on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_items(items: Iterable[object]) -> None:
    """Print a list as JSON, in the one shape that every list has."""
    print_json({"items": list(items)})


def print_done(document: object, text: str, *, json: bool) -> None:
    """Print what a command has done: as JSON for programs, or as a text for people."""
    if json:
        print_json(document)
    else:
        print(text)


def cell(value: object) -> str:
    """Return a value as a cell of a table; None is empty."""
    return "" if value is None else str(value)


def print_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    prose: Collection[str] = (),
    lesser: Sequence[str] = (),
    marks: Mapping[str, str] | None = None,
    none: str = "",
) -> None:
    """Print a table at a terminal, or tab-separated lines when piped.

    `prose` names the columns that may be folded if the terminal is narrow, `lesser` those that may be left out then;
    `marks` colours cells by their text; `none` is printed on standard error if there are no rows.
    """
    if none and not rows:
        print_message(none)
    if not sys.stdout.isatty():
        for row in [titles, *rows]:
            print("\t".join(cell.replace("\n", " ") for cell in row))
        return
    from rich.console import Console

    from .tables import table

    console = Console()
    console.print(table(titles, rows, console.width, prose=prose, lesser=lesser, marks=marks), soft_wrap=False)


@contextmanager
def note_interrupt(message: Callable[[], str]) -> Iterator[None]:
    """Print `message()` if the user interrupts the block, which only watches work that continues elsewhere."""
    try:
        yield
    except asyncio.CancelledError:
        print_message(f"interrupted: {message()}")
        raise


def counted(count: int, what: str, plural: str = "") -> str:
    """Return `1 device` or `2 devices`. `plural` is needed if it is not formed with an s."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the percentile `share` of sorted seconds in milliseconds; 0 of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else 0.0


def counts_line(counts: Mapping[str, int]) -> str:
    """Return the counts as text without those that are zero: `3 of 4: 2 sent, 1 failed, 1 queued`."""
    total = counts.get("total", 0)
    ended = total - counts.get("queued", 0) - counts.get("retrying", 0)
    parts = ", ".join(f"{counts[name]:,} {name}" for name in COUNTS if counts.get(name))
    return f"{ended:,} of {total:,}" + (f": {parts}" if parts else "")
