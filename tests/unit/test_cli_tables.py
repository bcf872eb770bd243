"""Tables at a terminal: at every width everything is there, whole."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, strategies as st
from rich.console import Console

from pushsvc.cli.instants import age
from pushsvc.cli.pushes.commands import AGE, LESSER, LIST, SCHEDULES
from pushsvc.cli.pushes.failed import COLUMNS, LESSER as LESSER_OF_REASONS, REASONS
from pushsvc.cli.stats.stats import TITLES
from pushsvc.cli.tables import table

DEAD = [
    "2026-11-28T12:00:00.000Z",
    "shop",
    "01a220ea-7a65-70b5-90b4-17d69aedec70",
    "apns",
    "BadDeviceToken",
    "400",
    "1",
    "",
    "3fd2ab0199ce",
]
ROUTE = ["shop", "apns", "0", "1,200", "0", "7", "1", "1,024", "52,000", "3", "1", "0", "0", "0", ""]


def drawn(
    titles: tuple[str, ...],
    rows: list[list[str]],
    width: int,
    *,
    prose: tuple[str, ...] = (),
    lesser: tuple[str, ...] = (),
) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(table(titles, rows, width, prose=prose, lesser=lesser))
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


@pytest.mark.parametrize("width", [48, 80, 100, 120, 160])
def test_ids_instants_and_reasons_are_whole_at_every_width(width: int) -> None:
    shown = drawn(COLUMNS, [DEAD, DEAD], width)
    for cell in filter(None, DEAD):
        assert shown.count(cell) >= 2, cell
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_columns_without_a_word_are_left_out_where_there_is_no_room() -> None:
    wide, narrow = drawn(TITLES, [ROUTE], 160), drawn(TITLES, [ROUTE], 80)
    assert "expired" in wide
    assert "expired" not in narrow
    assert "platform" in narrow
    for cell in ("1,200", "1,024", "52,000", "shop"):
        assert cell in narrow
    assert len(narrow.strip().splitlines()) == 3  # a heading, its line, a row


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (30, ["id", "lane", "key"]),
        (18, ["id", "lane"]),
        (13, ["id"]),
    ],
)
def test_lesser_columns_go_one_after_the_other(width: int, head: list[str]) -> None:
    row = ["0123456789", "bulk", "web"]
    lines = drawn(("id", "lane", "key"), [row], width, lesser=("key", "lane")).splitlines()
    assert (len(lines), lines[0].split()) == (3, head)


@pytest.mark.parametrize(
    ("count", "head"),
    [("1", ["age", "id", "state", "sent", "deliveries", "lane"]),
     ("12,345", ["age", "id", "state", "sent", "deliveries", "lane"]),
     ("12,345,678", ["age", "id", "state", "sent", "deliveries"])],
)  # fmt: skip
def test_a_list_of_pushes_is_a_table_of_80_columns_whatever_it_counts(count: str, head: list[str]) -> None:
    row = {"accepted": "2026-11-28T12:00:00Z", "id": DEAD[2], "state": "scheduled", "sent": count, "deliveries": count}
    row |= {"lane": "urgent", "key": "backend", "app": "shop", AGE: "12m", "due": "2026-11-28T12:00:00Z"}
    titles = (AGE, *LIST)
    lines = drawn(titles, [[row[title] for title in titles]], 80, lesser=LESSER).splitlines()
    assert (len(lines), lines[0].split()) == (3, head)
    assert DEAD[2] in lines[2]
    wide = drawn(titles, [[row[title] for title in titles]], 140, lesser=LESSER).splitlines()
    assert wide[0].split() == list(titles)

    lines = drawn(SCHEDULES, [[row[title] for title in SCHEDULES]], 80, lesser=LESSER).splitlines()
    assert (len(lines), lines[0].split()[:3]) == (3, ["due", "id", "deliveries"])


def test_the_reasons_of_dead_letters_are_a_table_of_80_columns() -> None:
    remedy = "Check which app registers with this account."
    row = ["3,100", "DeviceTokenNotForTopic", "no", "2h", "12s", "apns", "400", "shop", remedy]
    shown = drawn(REASONS, [row], 80, prose=("what to do",), lesser=LESSER_OF_REASONS)
    head, _, *lines = shown.splitlines()
    assert " ".join(head.split()) == "deliveries reason retryable since what to do"
    assert lines[0].split()[:4] == ["3,100", "DeviceTokenNotForTopic", "no", "2h"]
    assert " ".join(line[head.index("what") :].strip() for line in lines) == remedy


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"), (604_800, "7d")],
)
def test_ages(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_numbers_stand_to_the_right_and_prose_is_folded() -> None:
    lines = drawn(("app", "n"), [["shop", "1"], ["shop", "1,000"]], 80).splitlines()
    assert [line.rstrip() for line in lines if "shop" in line] == ["shop      1", "shop  1,000"]
    text = " ".join(f"word{number}" for number in range(40))
    folded = drawn(("", "found"), [["error", text]], 80, prose=("found",))
    assert " ".join(folded.split()).endswith(text)
    assert max(map(len, folded.splitlines())) <= 80


@given(
    rows=st.lists(st.lists(st.text("abz019- ", max_size=30).map(str.strip), min_size=4, max_size=4), max_size=4),
    width=st.integers(20, 120),
)
def test_no_cell_is_ever_cut(rows: list[list[str]], width: int) -> None:
    shown = "".join(drawn(("a", "bb", "ccc", "dddd"), rows, width).split())
    for row in rows:
        for cell in row:
            assert cell in ("0", "-") or "".join(cell.split()) in shown
