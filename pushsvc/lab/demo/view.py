"""The display of the demo: a live table with a log at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import wrap

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

STYLES = {
    "sent": "green",
    "online": "green",
    "silent": "yellow",
    "back": "green",
    "retry": "yellow",
    "dead": "magenta",
    "held": "red",
    "resumed": "green",
    "done": "bold green",
    "failed": "bold red",
}
STORY_MARGIN = 20
"""Columns beside the text of a line: the time, its kind, and the gaps."""
FIGURES_HEIGHT = 5
"""Lines of the picture that are not story, and the cursor's own."""
SHOWN = ("total", "queued", "retrying", "sent", "failed", "invalid", "expired", "suppressed", "cancelled")


class View:
    """Shows the progress. `log` adds a line to the log, `show` updates the figures."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._story: deque[tuple[float, str, str]] = deque(maxlen=14)
        self._counts: dict[str, int] = dict.fromkeys(SHOWN, 0)
        self._held: str = ""
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(self._render(), console=console, refresh_per_second=12, transient=False)
            self._live.start()

    @property
    def live(self) -> bool:
        """Whether it draws a picture, which other output would tear."""
        return self._live is not None

    def log(self, kind: str, text: str) -> None:
        """Add a line to the log."""
        at = time.monotonic() - self._started
        if self._live is None:
            self._console.out(f"{at:6.2f}s  {kind:<8} {text}", highlight=False)
        else:
            self._story.append((at, kind, text))
            self._live.update(self._render())

    def show(self, counts: Mapping[str, int], held: str) -> None:
        """Show the current figures."""
        self._counts = {name: counts.get(name, 0) for name in SHOWN}
        self._held = held
        if self._live is not None:
            self._live.update(self._render())

    def close(self) -> None:
        """Leave the last picture standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Group:
        figures = Table(box=None, padding=(0, 1), pad_edge=False)
        for name in SHOWN:
            figures.add_column(name, justify="right", no_wrap=True, style=STYLES.get(name, ""))
        figures.add_row(*(f"{self._counts[name]:,}" for name in SHOWN))
        route = Text(f"route held: {self._held}", style="red") if self._held else Text("routes: open", style="green")
        story = Table(box=None, padding=(0, 1), show_header=False)
        for at, kind, text in self._newest():
            story.add_row(f"{at:6.2f}s", Text(kind, style=STYLES.get(kind, "cyan")), text)
        return Group(figures, route, Text(), story)

    def _newest(self) -> list[tuple[float, str, str]]:
        """Return as many of the latest lines as the terminal has room for: a higher picture could not be redrawn."""
        width = max(20, self._console.width - STORY_MARGIN)
        room = self._console.height - FIGURES_HEIGHT
        kept: list[tuple[float, str, str]] = []
        for line in reversed(self._story):
            room -= len(wrap(line[2], width))
            if room < 0:
                break
            kept.append(line)
        return kept[::-1]


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """Open a view that restores the terminal whatever happens."""
    view = View(console)
    try:
        yield view
    finally:
        view.close()
