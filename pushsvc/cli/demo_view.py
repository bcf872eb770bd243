"""How the demo looks: a live table over the story at a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

STYLES = {
    "sent": "green",
    "retry": "yellow",
    "dead": "magenta",
    "held": "red",
    "resumed": "green",
    "done": "bold green",
    "failed": "bold red",
}
SHOWN = ("total", "queued", "retrying", "sent", "failed", "invalid", "expired", "suppressed", "cancelled")


class View:
    """Takes what happens and shows it. `say` tells the story, `show` keeps the figures."""

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

    def say(self, kind: str, text: str) -> None:
        """One line of the story."""
        at = time.monotonic() - self._started
        if self._live is None:
            self._console.out(f"{at:6.2f}s  {kind:<8} {text}", highlight=False)
        else:
            self._story.append((at, kind, text))
            self._live.update(self._render())

    def show(self, counts: Mapping[str, int], held: str) -> None:
        """The figures as they are now."""
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
        figures = Table(box=None, padding=(0, 2), title="deliveries", title_justify="left")
        for name in SHOWN:
            figures.add_column(name, justify="right", style=STYLES.get(name, ""))
        figures.add_row(*(f"{self._counts[name]:,}" for name in SHOWN))
        route = Text(f"route held: {self._held}", style="red") if self._held else Text("routes: open", style="green")
        story = Table(box=None, padding=(0, 1), show_header=False)
        for at, kind, text in self._story:
            story.add_row(f"{at:6.2f}s", Text(kind, style=STYLES.get(kind, "cyan")), text)
        return Group(figures, route, Text(), story)


@contextmanager
def open_view(console: Console) -> Iterator[View]:
    """A view that gives the terminal back whatever happens."""
    view = View(console)
    try:
        yield view
    finally:
        view.close()
