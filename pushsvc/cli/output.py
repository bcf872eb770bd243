"""What commands print: JSON for programs, tables and plain lines for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

COUNTS = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled", "retrying", "queued")
"""In the order in which people ask; together they are the total."""


def print_json(value: object) -> None:
    """One indented document on standard output."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, marks: Mapping[str, str] | None = None
) -> None:
    """A table at a terminal, tab-separated lines when piped. `marks` colours cells by their text."""
    if not sys.stdout.isatty():
        for row in [titles, *rows]:
            print("\t".join(cell.replace("\n", " ") for cell in row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*titles, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # As text, never as markup: a file's name may hold brackets.
        table.add_row(*(Text(cell, style=(marks or {}).get(cell, "")) for cell in row))
    Console().print(table)


def counts_line(counts: Mapping[str, int]) -> str:
    """`3 of 4: 2 sent, 1 failed, 1 queued`, without what is zero."""
    total = counts.get("total", 0)
    ended = total - counts.get("queued", 0) - counts.get("retrying", 0)
    parts = ", ".join(f"{counts[name]:,} {name}" for name in COUNTS if counts.get(name))
    return f"{ended:,} of {total:,}" + (f": {parts}" if parts else "")
