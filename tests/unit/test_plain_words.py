"""Docstrings, comments, messages and pages are in plain English: the part of that rule which a machine can judge."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ..pages import ROOT, TEXTS, prose

PACKAGE = ROOT / "pushsvc"

BANNED: Final = re.compile(
    r"\b(mend|mends|mended|mending|deeds?|dice|whom|whoever|manieth|reckon\w*|anew|thus|hence|lest|be it|tells|"
    r"nobody|somebody|everybody|anybody|of (?:before|then|later)|so many|done with|its own word|for ever|as ever|shall|"
    r"thereof|therein|whilst)\b",
    re.IGNORECASE,
)
"""Words that are archaic, private to the authors, or mean too many things."""

CLIPPED: Final = re.compile(r"\b(told|besides(?=[,.:;])|else it)\b", re.IGNORECASE)
"""Turns of phrase that make a reader stop, in what people read who do not know the code."""

READ: Final = (
    *((ROOT / ".github").glob("*.md")),
    *(ROOT / name for name in ("Makefile", "Dockerfile", ".ci/run")),
    *(path for path in (ROOT / "config").rglob("*") if path.is_file() and path.suffix != ".json"),
    *(path for kind in ("*.js", "*.html", "*.css") for path in PACKAGE.rglob(kind) if "vendor" not in path.parts),
)
"""Files beside the pages of the guide that people read, with their comments and texts."""

NO_COMMAND: Final = re.compile(
    r"(Whether|Who|What|Whose|Why|Where|When|How|Until|It|Its|So|Of|As|The|An?|All|Each|Every|This|That|These|Those|"
    r"In|By|For|From|To|With|At|On|Under|Before|After|None|Nothing|No|Not|True|False|Seconds|We|Our|Their|"
    r"[A-Z][a-z]*[^s]s)\b"
)
"""How a docstring of a function does not begin: it says what the function does, as a command ("Return ..")."""


class Doc(NamedTuple):
    """A docstring with its place."""

    place: str
    text: str
    is_function: bool
    is_public: bool


MODULES: Final = sorted(PACKAGE.rglob("*.py"))


def _docs(path: Path) -> Iterator[Doc]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        name = getattr(node, "name", "")
        decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not any(
            each.endswith("property") for each in decorators
        )
        place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}"
        yield Doc(place, text, is_function, not name.startswith("_") or name == "__init__")


def _first(text: str) -> str:
    """Return the first paragraph, which is the summary."""
    return text.split("\n\n")[0]


def _comments(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments, the docstrings (those of attributes too) and the messages of a module, with their lines."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        # Docstrings and what the service says; a text without a space is a name.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstrings_are_sentences(path: Path) -> None:
    faults = []
    for doc in _docs(path):
        first = _first(doc.text)
        start = r"[A-Z]" if doc.is_function else r"[A-Z`]"
        if not re.match(start, first) or not re.search(r"[.:]['\"`)]*(\s|$)", first):
            faults.append(f"{doc.place}: no sentence: {first[:80]}")
        elif doc.is_function and doc.is_public and NO_COMMAND.match(first):
            faults.append(f"{doc.place}: does not say what it does: {first[:80]}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_archaic_words(path: Path) -> None:
    found = [f"{path.relative_to(ROOT)}:{line}: {m[0]}" for line, text in _comments(path) if (m := BANNED.search(text))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("place", TEXTS)
def test_pages_are_in_plain_words(place: str) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(TEXTS[place]))
    assert [m[0] for pattern in (BANNED, CLIPPED) for m in pattern.finditer(text)] == []


@pytest.mark.parametrize("path", READ, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_people_read_are_in_plain_words(path: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", path.read_text(encoding="utf-8"))
    assert [m[0] for m in BANNED.finditer(text)] == []
