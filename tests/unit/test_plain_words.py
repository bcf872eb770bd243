"""Docstrings, comments, messages and pages are in plain English: the part of that rule which a machine can judge."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ..pages import ROOT, TEXTS, prose
from ..sources import MODULES, PACKAGE, nodes_of

NAMES: Final = r"mend|mends|mended|mending|told|tell|tells|telling|whom|whoever|anyhow|deeds?|dice|to be had"
"""Words that stand in no text and in no name either, of the package and of its tests."""

BANNED: Final = re.compile(
    rf"\b({NAMES}|manieth|reckon\w*|anew|thus|hence|lest|be it|"
    r"nobody|somebody|everybody|anybody|of (?:before|then|later)|so many|done with|its own word|for ever|as ever|shall|"
    r"thereof|therein|whilst)\b",
    re.IGNORECASE,
)
"""Words that are archaic, private to the authors, or mean too many things."""

CLIPPED: Final = re.compile(r"\b(besides(?=[,.:;])|else it)\b", re.IGNORECASE)
"""Turns of phrase that make a reader stop, in what people read who do not know the code."""

READ: Final = (
    *((ROOT / ".github").glob("*.md")),
    *(ROOT / name for name in ("Makefile", "Dockerfile", ".ci/run")),
    *(path for path in (ROOT / "config").rglob("*") if path.is_file() and path.suffix != ".json"),
    *(
        path
        for kind in ("*.js", "*.html", "*.css", "*.lua")
        for path in PACKAGE.rglob(kind)
        if "vendor" not in path.parts
    ),
)
"""Files beside the pages of the guide that people read, with their comments and texts."""

SOURCES: Final = (
    *(path for kind in ("*.py", "*.lua", "*.js") for path in PACKAGE.rglob(kind) if "vendor" not in path.parts),
    *(path for kind in ("*.py", "*.mjs", "*.toml") for path in (ROOT / "tests").rglob(kind) if path != Path(__file__)),
)
"""Files whose names are read as well: of functions, arguments, variables, attributes and keys."""

NAMED: Final = re.compile(rf"(?<![a-z])({NAMES})(?![a-z])", re.IGNORECASE)

NO_COMMAND: Final = re.compile(
    r"(Whether|Who|What|Whose|Why|Where|When|How|Until|It|Its|So|Of|As|The|An?|All|Each|Every|This|That|These|Those|"
    r"In|By|For|From|To|With|At|On|Under|Before|After|None|Nothing|No|Not|True|False|Seconds|We|Our|Their|"
    r"[A-Z][a-z]*[^s]s)\b"
)
"""How a docstring of a function does not begin: it says what the function does, as a command ("Return ..")."""

DEFINED: Final = re.compile(
    r"say|says|said|heard|spoken|heirs?|go_on|goes_on|going_on|carry_on|carried_on|obituary|leavers"
)
"""What nothing is called that the package defines: a function prints, logs or reports, and a message is received, read
or acknowledged."""


class Doc(NamedTuple):
    """A docstring with its place."""

    place: str
    text: str
    is_function: bool
    is_public: bool


def _docs(path: Path) -> Iterator[Doc]:
    for node in nodes_of(path):
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
    for node in nodes_of(path):
        # Docstrings and what the service says; a text without a space is a name.
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def _faults_of_docstrings(path: Path) -> Iterator[str]:
    """Yield the docstrings that are no sentences, or do not say what a function does."""
    for doc in _docs(path):
        first = _first(doc.text)
        start = r"[A-Z]" if doc.is_function else r"[A-Z`]"
        if not re.match(start, first) or not re.search(r"[.:]['\"`)]*(\s|$)", first):
            yield f"{doc.place}: no sentence: {first[:80]}"
        elif doc.is_function and doc.is_public and NO_COMMAND.match(first):
            yield f"{doc.place}: does not say what it does: {first[:80]}"


def test_docstrings_are_sentences_and_no_module_has_archaic_words() -> None:
    faults = [fault for path in MODULES for fault in _faults_of_docstrings(path)]
    for path in MODULES:
        words = ((line, m[0]) for line, text in _comments(path) if (m := BANNED.search(text)))
        faults += [f"{path.relative_to(ROOT)}:{line}: {word}" for line, word in words]
    assert not faults, "\n".join(faults)


def test_pages_are_in_plain_words() -> None:
    found = []
    for place, page in TEXTS.items():
        text = re.sub(r"`[^`\n]*`", "", prose(page))
        found += [(place, m[0]) for pattern in (BANNED, CLIPPED) for m in pattern.finditer(text)]
    assert found == []


def test_files_that_people_read_are_in_plain_words() -> None:
    found = []
    for path in READ:
        text = re.sub(r"`[^`\n]*`", "", path.read_text(encoding="utf-8"))
        found += [(path.relative_to(ROOT).as_posix(), m[0]) for m in BANNED.finditer(text)]
    assert found == []


def _names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the words of a source that no name may have, with their lines. A name is read word by word."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", source).replace(".tell()", "")  # the method of a file
    for match in NAMED.finditer(parts):
        yield parts.count("\n", 0, match.start()) + 1, match[0]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def _tell(x): ...", ["tell"]),
        ("self._told = 1", ["told"]),
        ('log("x", mend="y")', ["mend"]),
        ("class NewTold: ...", ["Told"]),
        ('{"told": 1}', ["told"]),
        ("at = file.tell()", []),
        ("satellite, recommended, bestellung", []),
        ("-- whoever comes first\nlocal told = 0", ["whoever", "told"]),
    ],
)
def test_names_are_read_word_by_word(source: str, found: list[str]) -> None:
    assert [word for _, word in _names(source)] == found


def test_names_are_in_plain_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in SOURCES
        for line, word in _names(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def _defined(tree: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield the names of classes, functions, arguments, fields and attributes that a module defines."""
    for node in tree:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.AnnAssign(target=ast.Name() as name):
                yield node.lineno, name.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def _is_quaint(name: str) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return re.search(rf"(?:^|_)(?:{DEFINED.pattern})(?:$|_)", words) is not None


def test_names_that_are_defined_say_what_is_done() -> None:
    tree = ast.parse("class HeardOf:\n  says: int\n  def _say(self, heirs): self._said = saying = hearsay = 1")
    assert [name for _, name in _defined(ast.walk(tree)) if _is_quaint(name)] == [
        *("HeardOf", "says", "_say", "heirs", "_said")
    ]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in MODULES
        for line, name in _defined(nodes_of(path))
        if _is_quaint(name)
    ]
    assert not found, "\n".join(found)
