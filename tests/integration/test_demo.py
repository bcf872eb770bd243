"""`pushsvc demo`, as a newcomer runs it: piped, at a terminal, and interrupted. It leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pushsvc.lab.demo.view import SHOWN, open_view

from ..pages import PAGES, blocks
from .processes import Processes
from .terminal import at_terminal
from .test_readme import without_figures

LINE = re.compile(r" *(\d+\.\d\d)s  (\w+) +(\S.*)")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a folder for temporary files of its own, in which no file may be left in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    # Where a socket's path is too long, it stands in a folder for all the stores of this user, which may stay.
    left = [path for path in folder.rglob("*") if path != folder / f"pushsvc-{os.getuid()}"]
    assert left == []


def test_piped_it_prints_the_story_in_plain_lines_as_the_page_shows_it(
    processes: Processes, scratch: dict[str, str]
) -> None:
    (shown,) = blocks("text", PAGES["tutorial/try.md"])
    code, out, err = processes.run("demo", "--once", **scratch)
    assert code == 0, (out, err)
    assert "\x1b" not in out
    assert without_figures(out) == without_figures(shown)
    lines = [LINE.fullmatch(line) for line in out.splitlines()]
    assert all(lines), out
    assert max(map(len, out.splitlines())) <= 80, out
    story = [(found[2], found[3]) for found in lines if found]
    times = [float(found[1]) for found in lines if found]
    assert times == sorted(times)
    kinds = [kind for kind, _ in story]
    # Act by act: each kind comes up, and none before its time.
    acts = "start ready accepted sent devices online silent back live retry failed dead held fixed resumed totals done"
    assert " ".join(dict.fromkeys(kinds)) == acts
    reported = dict(zip(kinds, (text for _, text in story), strict=True))
    assert "503" in reported["retry"]
    assert "BadPriority" in reported["failed"]
    assert [text for kind, text in story if kind == "dead"] == [
        "APNs answers 410 Unregistered for Cid's phone: it is `invalid`",
        "feedback: cid-phone pruned, its state is pruned",
        "the topic leaves it out, and its bare token is `suppressed`",
    ]
    assert re.fullmatch(r"apns \(InvalidProviderToken\): 200 wait, 0 failed", reported["held"])
    assert reported["resumed"] == "400 of 400 sent, no token lost"
    assert [text for kind, text in story if kind == "totals"] == [
        "5,426 accepted = sent 5,423, failed 1, invalid 1, suppressed 1",
        "by the simulator's record 0 of them arrived twice",
    ]
    assert err == "", "what the script provokes is reported by the script alone"
    processes.until_gone("the demo has ended", 10.0)


def test_at_a_terminal_it_draws_and_gives_the_terminal_back(processes: Processes, scratch: dict[str, str]) -> None:
    environ = {**processes.environ(**scratch)}
    del environ["COLUMNS"]
    with at_terminal("demo", "--once", cwd=processes.folder, environ=environ, columns=80, lines=24) as terminal:
        assert terminal.wait() == 0, terminal.shown
        assert terminal.settings == terminal.before
        terminal.until("\x1b[?25h")
        shown = terminal.shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor hides, and comes back
    assert shown.endswith("\x1b[?25h")
    assert "\x1b[?1049h" not in shown  # the story stays on the screen
    assert "route held: apns (InvalidProviderToken)" in shown
    assert "every step succeeded" in shown
    # What the parts log would tear the picture.
    assert '"event"' not in shown
    assert "route_held" not in shown
    processes.until_gone("the demo has ended", 10.0)


def test_ctrl_c_ends_it_and_leaves_nothing(processes: Processes, scratch: dict[str, str]) -> None:
    with at_terminal("demo", cwd=processes.folder, environ=processes.environ(**scratch)) as terminal:
        terminal.until("both providers accepted it")
        terminal.type("\x03")
        assert terminal.wait() == 0, terminal.shown
        assert terminal.settings == terminal.before
        terminal.until("\x1b[?25h")
        assert "Traceback" not in terminal.shown
    processes.until_gone("the demo has been interrupted", 10.0)


def test_sigterm_ends_it_and_leaves_nothing(processes: Processes, scratch: dict[str, str]) -> None:
    demo = processes.start("demo", "--once", **scratch)
    demo.until("both providers accepted it")
    assert demo.end(signal.SIGTERM) == 130
    reported = demo.output()
    assert "stop" in reported
    assert "every step succeeded" not in reported
    assert "Traceback" not in reported
    processes.until_gone("the demo has been stopped", 10.0)


# --- the picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60), (80, 10), (40, 12)])
def test_the_picture_fits_the_terminal(columns: int, lines: int) -> None:
    """One that is higher could not be drawn over: it would leave its upper lines on the screen each time."""
    file = io.StringIO()
    console = Console(file=file, width=columns, height=lines, force_terminal=True, color_system=None)
    with open_view(console) as view:
        assert view.live
        for number in range(30):
            view.log("sent", f"line {number}: " + "a long story " * (number % 7))
            view.show({"total": 5412 + number, "sent": number, "suppressed": 1}, "apns (InvalidProviderToken)")
            picture = console.render_lines(view._render())
            assert len(picture) < lines
    text = "\n".join("".join(segment.text for segment in line) for line in picture)
    assert "line 29" in text
    if columns >= 80:
        assert [name for name in SHOWN if name not in text] == []
        assert "5,441" in text


def test_without_a_terminal_there_is_no_picture() -> None:
    file = io.StringIO()
    with open_view(Console(file=file, width=20)) as view:
        assert not view.live
        view.show({"total": 1}, "")
        view.log("sent", "a line that is longer than the console is wide")
    assert re.fullmatch(r" +\d+\.\d\ds  sent     a line that is longer than the console is wide\n", file.getvalue())
