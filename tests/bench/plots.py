"""The charts of `make bench`: bars in a terminal, plain lines where the output goes to a file, and a picture (PNG)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .results import Chart, Row

EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
LABEL: Final = 44
BAR: Final = 28


def number(value: float) -> str:
    """Return a number with the three digits that a reader can use."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 or value == int(value) else f"{value:.1f}" if size >= 10 else f"{value:.3g}"


def bar(share: float, width: int = BAR, *, fancy: bool) -> str:
    """Return a bar that fills `share` of the width: in eighths of a character, or of `#` where the output is plain."""
    share = min(1.0, max(0.0, share))
    if not fancy:
        return "#" * round(share * width)
    full, rest = divmod(round(share * width * 8), 8)
    return "█" * full + (EIGHTHS[rest] if rest else "")


def spread(row: Row) -> str:
    """Return the range of the rounds, in brackets; nothing for one round."""
    own = row.figure
    return "" if own.low == own.high else f"({number(own.low)} to {number(own.high)})"


def change(row: Row) -> str:
    """Return by how much the figure has changed, and whether that is better or worse."""
    return "" if row.before is None else f"{row.change:+.0%} {row.verdict}".rstrip()


def as_text(charts: Sequence[Chart], *, fancy: bool) -> str:
    """Return the charts for a terminal, or plain."""
    lines = []
    for chart in charts:
        most = max(row.figure.value for row in chart.rows)
        lines += ["", f"{chart.part}, {chart.unit}"]
        for row in chart.rows:
            drawn = bar(row.figure.value / most if most else 0.0, fancy=fancy)
            words = "  ".join(word for word in (spread(row), change(row)) if word)
            line = f"  {row.figure.name[:LABEL]:<{LABEL}} {number(row.figure.value):>9} {drawn:<{BAR}}  {words}"
            lines.append(line.rstrip())
    return "\n".join(lines[1:])


# --- the picture ----------------------------------------------------------------------------------

INK, FAINT, GOOD, BAD = (38, 42, 50), (140, 146, 156), (22, 130, 74), (190, 50, 40)
BARS, WHISKER, BEFORE, PAPER = (74, 118, 190), (38, 42, 50), (205, 210, 218), (255, 255, 255)
COLOURS: Final = {"better": GOOD, "worse": BAD, "": FAINT}
EDGE, LINE, TITLE = 24, 24, 40
NAMES, NUMBERS, DRAWN, WORDS = 380, 90, 420, 260
"""The widths of the columns."""


def as_png(charts: Sequence[Chart], file: Path, title: str) -> None:
    """Draw the charts: a bar for each figure, a grey one behind it for the earlier run, and a line for the range of the
    rounds. Raises `ImportError` without Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    height = 2 * EDGE + TITLE + sum(TITLE + LINE * len(chart.rows) for chart in charts)
    image = Image.new("RGB", (2 * EDGE + NAMES + NUMBERS + DRAWN + WORDS, height), PAPER)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(18), ImageFont.load_default(14)
    draw.text((EDGE, EDGE), title, INK, large)
    top = EDGE + TITLE
    begin = EDGE + NAMES + NUMBERS
    for chart in charts:
        draw.text((EDGE, top + 12), f"{chart.part}, {chart.unit}", INK, large)
        top += TITLE
        most = max(max(row.figure.high, row.before.value if row.before else 0.0) for row in chart.rows) or 1.0
        scale = (DRAWN - 20) / most
        for row in chart.rows:
            own, middle = row.figure, top + LINE // 2
            draw.text((EDGE + 8, middle), own.name, INK, small, anchor="lm")
            draw.text((begin - 8, middle), number(own.value), INK, small, anchor="rm")
            if row.before is not None:
                draw.rectangle((begin, middle - 9, begin + row.before.value * scale, middle + 9), BEFORE)
            draw.rectangle((begin, middle - 6, begin + own.value * scale, middle + 6), BARS)
            if own.low != own.high:
                draw.line((begin + own.low * scale, middle, begin + own.high * scale, middle), WHISKER, 2)
            words = "  ".join(word for word in (spread(row), change(row)) if word)
            draw.text((begin + DRAWN, middle), words, COLOURS[row.verdict], small, anchor="lm")
            top += LINE
    image.save(file)
