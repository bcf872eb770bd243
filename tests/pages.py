"""The README and the pages of the guide, as the tests read them: their sections, tables and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
GUIDE: Final = ROOT / "pushsvc" / "docs"
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES: Final = {path.relative_to(GUIDE).as_posix(): path.read_text(encoding="utf-8") for path in GUIDE.rglob("*.md")}
"""The pages by their place in the guide, such as `reference/push.md`."""
TEXTS: Final = {"README.md": README, **{f"pushsvc/docs/{name}": text for name, text in sorted(PAGES.items())}}
"""All of them by their place in the project."""
EVERYTHING: Final = "\n".join(TEXTS.values())


def code_in(text: str) -> list[str]:
    """Return what stands between back-ticks."""
    return re.findall(r"`([^`]*)`", text)


def blocks(language: str, text: str = EVERYTHING) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str = EVERYTHING) -> str:
    """Return the text without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def tables() -> dict[str, list[list[str]]]:
    """Return the rows of every table, by what stands over its first column. Tables that share this are one."""
    found: dict[str, list[list[str]]] = {}
    for place, text in TEXTS.items():
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            head, rule, *rows = [_cells(line) for line in block.splitlines()]
            assert all(set(cell) == {"-"} for cell in rule), (place, head)
            assert all(len(row) == len(head) for row in rows), (place, head)
            found.setdefault(head[0], []).extend(rows)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def section_of(title: str) -> str:
    """Return the text below the one heading of this title, up to the next heading of its level or above."""
    (found,) = [text for page in TEXTS.values() for head, text in _sections(page) if head == title]
    return found


def _sections(page: str) -> Iterator[tuple[str, str]]:
    lines, heads, fenced = page.splitlines(keepends=True), list[tuple[int, int, str]](), False
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        if not fenced and (head := re.match(r"(#+) (.*)\n", line)):
            heads.append((number, len(head[1]), head[2]))
    for at, level, title in heads:
        end = next((number for number, other, _ in heads if number > at and other <= level), len(lines))
        yield title, "".join(lines[at + 1 : end])
