"""Tables that fit a terminal of any width without cutting anything off.

A truncated id, time or reason can neither be copied nor searched for. So a table that is wider than the terminal first
drops columns that are empty in every row, then folds columns of prose, then drops the columns that its command calls
lesser, and if that is not enough shows each row as a paragraph of `title value` pairs, with every column. Columns of
numbers are aligned to the right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2
"""Terminal columns between two columns of the table."""
PROSE = 24
"""The minimum width to which prose is folded."""
_NUMBER = re.compile(r"-|-?[\d,]+(\.\d+)?", re.ASCII)
_NOTHING = frozenset(("", "0", "-"))

Rows = Sequence[Sequence[str]]


def table(
    titles: Sequence[str],
    rows: Rows,
    width: int,
    *,
    prose: Collection[str] = (),
    lesser: Sequence[str] = (),
    marks: Mapping[str, str] | None = None,
) -> RenderableType:
    """Return the table drawn within `width`.

    `prose` are the titles of columns that may be folded, `lesser` of those that may be left out, the first to go first;
    `marks` colours cells by their text.
    """
    cells = [[" ".join(cell.split("\n")) for cell in row] for row in rows]
    marks = marks or {}

    def text(title: str, cell: str) -> Text:
        # As text, never as markup: a file's name may hold brackets.
        return Text(cell, style=marks.get(cell, ""))

    kept = fitting(titles, cells, width, prose, lesser)
    if not kept:
        return Group(*(_paragraph(titles, row, width, text) for row in cells))
    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for at in kept:
        drawn.add_column(
            titles[at],
            justify="right" if _is_number(at, cells) else "left",
            no_wrap=titles[at] not in prose,
            overflow="fold",
        )
    for row in cells:
        drawn.add_row(*(text(titles[at], row[at]) for at in kept))
    return drawn


def fitting(
    titles: Sequence[str], rows: Rows, width: int, prose: Collection[str], lesser: Sequence[str] = ()
) -> list[int]:
    """Return the numbers of the columns that fit, or none if no table fits. Pure."""
    everything = list(range(len(titles)))
    shown = [at for at in everything if not rows or any(row[at] not in _NOTHING for row in rows)]
    for columns in (everything, shown):
        if _width(titles, rows, columns, ()) <= width:
            return columns
    for left_out in range(len(lesser) + 1):
        columns = [at for at in shown if titles[at] not in lesser[:left_out]]
        if columns and _width(titles, rows, columns, prose) <= width:
            return columns
    return []


def _width(titles: Sequence[str], rows: Rows, columns: Sequence[int], folded: Collection[str]) -> int:
    total = GAP * max(0, len(columns) - 1)
    for at in columns:
        widest = max((cell_len(row[at]) for row in rows), default=0)
        if titles[at] in folded:
            widest = min(widest, PROSE)
        total += max(widest, cell_len(titles[at]))
    return total


def _is_number(at: int, rows: Rows) -> bool:
    cells = [row[at] for row in rows if row[at]]
    return bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


def _paragraph(titles: Sequence[str], row: Sequence[str], width: int, text: Callable[[str, str], Text]) -> Text:
    """Return the row as `title value` pairs, as many on a line as fit, with later lines indented.

    Only a pair that is longer than a whole line is folded.
    """
    shown = Text(overflow="fold")
    used = 0
    for title, cell in zip(titles, row, strict=True):
        if not cell:
            continue
        pair = Text.assemble((f"{title} " if title else "", "bold"), text(title, cell))
        if used and used + GAP + pair.cell_len > width:
            shown.append("\n" + " " * GAP)
            used = GAP
        elif used:
            shown.append(" " * GAP)
            used += GAP
        shown.append_text(pair)
        used += pair.cell_len
    return shown
