"""Split an expression into words, each with its first column, counted from 1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from msgspec import Struct

MAX_LENGTH: Final = 4096
"""Characters of an expression."""

Value: TypeAlias = str | bool | int | float | None

Kind = Literal["name", "value", "sign", "end"]


class WhereFault(Struct, frozen=True):
    """One thing that is wrong, at a column counted from 1."""

    column: int
    message: str

    def __str__(self) -> str:
        return f"column {self.column}: {self.message}"


class WhereError(ValueError):
    """The text is not a valid expression. It has every fault that could be found, in the order of their columns."""

    def __init__(self, faults: Sequence[WhereFault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: fault.column))
        super().__init__("; ".join(map(str, self.faults)))


class Word(Struct, frozen=True):
    """A name, a value (then in `value`), a sign as `==` or `(`, or the end."""

    kind: Kind
    text: str
    column: int
    value: Value = None

    def __str__(self) -> str:
        """Return the word as an error may show it, without quoted text, which may be personal data."""
        if self.kind == "end":
            return "the end"
        return "a text" if isinstance(self.value, str) else f"`{self.text}`"


_WORD: Final = re.compile(
    r"""\s*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<number>-?(?:[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?))(?![A-Za-z0-9_.])
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_SPACE: Final = re.compile(r"\s*", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_MAX_DIGITS: Final = 20
_WORDS_OF_VALUES: Final = {"true": True, "false": False, "null": None}
_REMEDIES: Final = {
    "=": "write `==`",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or `!=`",
    "'": "the text has no closing quote",
    '"': "the text has no closing quote",
    **dict.fromkeys("\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "write a straight quote, '"),
    **dict.fromkeys("\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", 'write a straight quote, "'),
}


def words_of(text: str) -> list[Word]:
    """Return the words, the last of kind `end`. Raises `WhereError` at the first invalid one."""
    if len(text) > MAX_LENGTH:
        raise WhereError([WhereFault(MAX_LENGTH + 1, f"is {len(text):,} characters long, at most {MAX_LENGTH:,}")])
    words: list[Word] = []
    place = 0
    while True:
        match = _WORD.match(text, place)
        if match is None:
            start = _SPACE.match(text, place).end()  # type: ignore[union-attr]  # it matches nothing, too
            raise WhereError([WhereFault(start + 1, _unreadable(text[start:]))])
        found = str(match.lastgroup)
        word = _word(found, match[found], match.start(found) + 1)
        words.append(word)
        if word.kind == "end":
            return words
        place = match.end()


def _word(found: str, text: str, column: int) -> Word:
    if found == "name" and text in _WORDS_OF_VALUES:
        return Word("value", text, column, _WORDS_OF_VALUES[text])
    if found == "number":
        return Word("value", text, column, _number(text, column))
    if found == "text":
        return Word("value", text, column, _text(text, column))
    return Word("end" if found == "end" else "name" if found == "name" else "sign", text, column)


def _number(text: str, column: int) -> int | float:
    if sum(map(str.isdigit, text)) > _MAX_DIGITS:
        raise WhereError([WhereFault(column, f"a number has at most {_MAX_DIGITS} digits")])
    number = float(text) if any(mark in text for mark in ".eE") else int(text)
    if number in (float("inf"), float("-inf")):
        raise WhereError([WhereFault(column, "this number is larger than any that a tag can have")])
    return number


def _text(quoted: str, column: int) -> str:
    inner = quoted[1:-1]
    if "\\" not in inner:
        return inner
    for escape in _ESCAPE.finditer(inner):
        if escape[1] not in "'\"\\":
            raise WhereError(
                [WhereFault(column + 1 + escape.start(), r"a backslash must come before a quote or a backslash")]
            )
    return _ESCAPE.sub(r"\1", inner)


def _unreadable(rest: str) -> str:
    if rest[0].isdigit() or (rest[0] == "-" and rest[1:2].isdigit()):
        return "is not a number; write a version or an instant in quotes, as '3.2.0'"
    remedy = _REMEDIES.get(rest[0])
    shown = f"`{rest[0]}`" if rest[0].isprintable() else "a character that does not print"
    return f"{shown} cannot stand here; {remedy}" if remedy else f"{shown} cannot stand here"
