"""Compile words to closures, by recursive descent. A syntax error ends it; semantic faults are collected."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from ...model.devices import Device
from .fields import ORDERS, Field, Predicate, Tag, fields_at, never
from .words import WhereError, WhereFault, Word, words_of

MAX_DEPTH: Final = 32
"""Levels of brackets and `not`."""
MAX_COMPARISONS: Final = 256

_MIRRORED: Final = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_CLOSING: Final = {"(": ")", "[": "]"}
_VALUE: Final = "a value: a text in quotes, a number, true, false or null"
_SHORT: Final = 24
"""A longer word is not repeated in an error, because it may be a token that lost its quotes."""


def compile_where(text: str, *, now: int, platforms: Sequence[str] = ()) -> Predicate:
    """Return the expression as a function of a device. Spans count back from `now` (Unix ms).

    If `platforms` are given, `platform` may be compared with these only: `'ios'` would otherwise silently match no
    device. Raises `WhereError`, a `ValueError`, with each fault and its column.
    """
    return _Reader(words_of(text), fields_at(now, platforms)).read()


class _Named(Struct, frozen=True):
    """A field and its position. `field` is None if it does not exist, which has been reported."""

    field: Field | None
    shown: str
    column: int


class _Reader:
    def __init__(self, words: Sequence[Word], fields: dict[str, Field]) -> None:
        self._words = words
        self._fields = fields
        self._place = 0
        self._depth = 0
        self._comparisons = 0
        self._faults: list[WhereFault] = []

    def read(self) -> Predicate:
        if self._peek().kind == "end":
            raise self._error(self._peek(), "is empty; an example: tags.plan == 'pro' and locale in ('de', 'at')")
        predicate = self._expression()
        if self._peek().kind != "end":
            remedy = (
                "write tags['..'] for a name with other characters" if self._peek().text == "." else "`and` or `or`?"
            )
            raise self._error(self._peek(), f"{_shown(self._peek())} cannot stand here; {remedy}")
        if self._faults:
            raise WhereError(self._faults)
        return predicate

    # --- words ----------------------------------------------------------------------------------

    def _peek(self) -> Word:
        return self._words[self._place]

    def _take(self) -> Word:
        word = self._peek()
        self._place += word.kind != "end"
        return word

    def _at(self, *texts: str) -> bool:
        """Return whether the next word is one of these names or signs."""
        return self._peek().kind in ("name", "sign") and self._peek().text in texts

    def _error(self, word: Word, message: str) -> WhereError:
        """Return the error for a position from which reading cannot continue, together with the collected faults."""
        return WhereError([*self._faults, WhereFault(word.column, message)])

    def _fault(self, column: int, message: str) -> Predicate:
        """Collect a fault and return a predicate, so that reading continues and finds the others."""
        self._faults.append(WhereFault(column, message))
        return never

    # --- and, or, not, brackets -------------------------------------------------------------------

    def _expression(self) -> Predicate:
        terms = [self._term()]
        while self._at("or"):
            self._take()
            terms.append(self._term())
        return any_of(terms)

    def _term(self) -> Predicate:
        factors = [self._factor()]
        while self._at("and"):
            self._take()
            factors.append(self._factor())
        return all_of(factors)

    def _factor(self) -> Predicate:
        if not self._at("not", "("):
            return self._comparison()
        word = self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(word, f"is nested more than {MAX_DEPTH} levels deep")
        if word.text == "not":
            predicate = opposite(self._factor())
        else:
            predicate = self._expression()
            if not self._at(")"):
                raise self._error(
                    self._peek(), f"expected `)`, found {_shown(self._peek())}; its bracket opens at {word.column}"
                )
            self._take()
        self._depth -= 1
        return predicate

    # --- comparisons ------------------------------------------------------------------------------

    def _comparison(self) -> Predicate:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise self._error(self._peek(), f"holds more than {MAX_COMPARISONS} comparisons")
        predicate = self._backwards() if self._peek().kind == "value" else self._forwards()
        if self._at(*_MIRRORED, "in"):
            raise self._error(self._peek(), "comparisons do not chain; write `a < b and b < c`")
        return predicate

    def _forwards(self) -> Predicate:
        """Return a field, then what it is compared with."""
        named = self._field()
        word = self._peek()
        sign = self._operator()
        if sign is None:
            if isinstance(named.field, Tag):
                return named.field.among([True])
            if named.field is None:
                return never
            return self._fault(
                word.column, f"expected an operator such as `==` after `{named.shown}`, found {_shown(word)}"
            )
        if sign in ("in", "not in"):
            predicate = self._among(named, self._list())
            return opposite(predicate) if sign == "not in" else predicate
        value = self._take()
        if value.kind != "value":
            raise self._error(value, f"expected {_VALUE}; found {_shown(value)}{_unquoted(value)}")
        return self._compare(named, sign, word, value)

    def _backwards(self) -> Predicate:
        """Return a value, then the field that is compared with it."""
        value, word = self._take(), self._peek()
        sign = self._operator()
        if sign is None:
            raise self._error(word, f"expected an operator such as `==` after {_shown(value)}, found {_shown(word)}")
        if self._peek().kind == "value":
            raise self._error(self._peek(), "a comparison needs a field on one side; all fields are " + self._known())
        named = self._field()
        if sign not in ("in", "not in"):
            return self._compare(named, _MIRRORED[sign], word, value)
        if named.field is not None and not isinstance(named.field, Tag):
            return self._fault(named.column, f"`{named.shown}` is not a list; write `{named.shown} == ..`")
        predicate = self._among(named, [value])
        return opposite(predicate) if sign == "not in" else predicate

    def _operator(self) -> str | None:
        """Return the operator (`==` and so on, `in`, `not in`), or None if there is none."""
        if self._at(*_MIRRORED, "in"):
            return self._take().text
        if self._at("not"):
            self._take()
            if not self._at("in"):
                raise self._error(self._peek(), f"expected `in` after `not`, found {_shown(self._peek())}")
            self._take()
            return "not in"
        if self._peek().kind == "name" and not self._at("and", "or"):
            raise self._error(
                self._peek(), f"{_shown(self._peek())} is not an operator; use one of == != < <= > >= in or `not in`"
            )
        return None

    def _compare(self, named: _Named, sign: str, word: Word, value: Word) -> Predicate:
        field = named.field
        if field is None:
            return never
        if sign in ORDERS:
            if field.orders:
                return self._fault(word.column, f"`{named.shown}` {field.orders}")
            if value.value is None:
                return self._fault(value.column, "null has no order; compare it with == or !=")
            found = self._read(named, value)
            return never if found is _UNREAD else field.ordered(ORDERS[sign], found)
        predicate = field.missing() if value.value is None else self._among(named, [value])
        return opposite(predicate) if sign == "!=" else predicate

    def _among(self, named: _Named, values: Sequence[Word]) -> Predicate:
        field = named.field
        if field is None:
            return never
        if field.equals:
            return self._fault(named.column, f"`{named.shown}` {field.equals}")
        found = [self._read(named, value) for value in values]
        return never if _UNREAD in found else field.among(found)

    def _read(self, named: _Named, word: Word) -> Any:
        assert named.field is not None
        if word.value is None:
            self._fault(word.column, "null can be compared with == and != only")
            return _UNREAD
        try:
            return named.field.read(word.value)
        except ValueError as error:
            self._fault(word.column, f"`{named.shown}` {error}")
            return _UNREAD

    def _list(self) -> list[Word]:
        opening = self._take()
        if opening.text not in _CLOSING or opening.kind != "sign":
            remedy = "; put it in brackets" if opening.kind == "value" else ""
            raise self._error(opening, f"expected a list such as ('a', 'b'), found {_shown(opening)}{remedy}")
        closing = _CLOSING[opening.text]
        values: list[Word] = []
        while not self._at(closing):
            word = self._take()
            if word.kind != "value":
                raise self._error(word, f"expected {_VALUE}, or `{closing}`; found {_shown(word)}{_unquoted(word)}")
            values.append(word)
            if self._at(","):
                self._take()
            elif not self._at(closing):
                raise self._error(self._peek(), f"expected `,` or `{closing}`, found {_shown(self._peek())}")
        self._take()
        if not values:
            self._fault(opening.column, "the list is empty; name at least one value")
        return values

    # --- fields -----------------------------------------------------------------------------------

    def _field(self) -> _Named:
        word = self._take()
        if word.kind != "name" or word.text in ("and", "or", "in", "not"):
            raise self._error(word, f"expected a field, found {_shown(word)}; all fields are {self._known()}")
        if word.text == "tags":
            return self._tag(word)
        field = self._fields.get(word.text)
        if field is None and self._at(".", "["):
            tag = self._tag(word)
            self._fault(word.column, f"{_shown(word)} is not a field; did you mean `{tag.shown}`?")
            return _Named(None, tag.shown, word.column)
        if field is None:
            self._fault(word.column, f"{_shown(word)} is not a field; {self._likely(word.text)}")
        return _Named(field, word.text, word.column)

    def _tag(self, word: Word) -> _Named:
        if self._at("."):
            self._take()
            name = self._take()
            if name.kind == "name" or name.text.isalpha():  # also `tags.true`
                return _Named(Tag(name.text), f"tags.{_brief(name.text)}", word.column)
            raise self._error(
                name, f"expected the name of a tag after `tags.`, found {_shown(name)}; or write tags['..']"
            )
        if self._at("["):
            self._take()
            name = self._peek()
            if isinstance(name.value, str):
                self._take()
                if self._at("]"):
                    self._take()
                    return _Named(Tag(name.value), "tags['..']", word.column)
        raise self._error(self._peek(), "a tag is written tags.NAME or tags['any name']")

    def _known(self) -> str:
        return ", ".join((*self._fields, "tags.NAME"))

    def _likely(self, name: str) -> str:
        if len(name) > _SHORT:
            return f"all fields are {self._known()}"
        if near := difflib.get_close_matches(name.lower(), self._fields, 1):
            return f"did you mean `{near[0]}`?"
        return f"a tag is written `tags.{name}`; all fields are {self._known()}"


_UNREAD: Final = object()


def _shown(word: Word) -> str:
    return f"a word of {len(word.text)} characters" if len(word.text) > _SHORT and word.kind == "name" else str(word)


def _brief(name: str) -> str:
    return name if len(name) <= _SHORT else ".."


def _unquoted(word: Word) -> str:
    if word.kind != "name" or len(word.text) > _SHORT:
        return ""
    return (
        f"; write `{word.text.lower()}`" if word.text.lower() in ("true", "false", "null") else "; write it in quotes"
    )


# --- predicates of predicates ---------------------------------------------------------------------


def opposite(predicate: Predicate) -> Predicate:
    return lambda device: not predicate(device)


def all_of(predicates: Sequence[Predicate]) -> Predicate:
    """Return the conjunction, nested pairs for a few predicates: a loop costs more than a call."""
    if never in predicates:
        return never
    if len(predicates) == 1:
        return predicates[0]
    if len(predicates) == 2:
        one, two = predicates
        return lambda device: one(device) and two(device)
    every = tuple(predicates)

    def fits(device: Device) -> bool:
        for predicate in every:  # noqa: SIM110 -- `all` makes a generator at each device
            if not predicate(device):
                return False
        return True

    return fits


def any_of(predicates: Sequence[Predicate]) -> Predicate:
    predicates = [predicate for predicate in predicates if predicate is not never] or [never]
    if len(predicates) == 1:
        return predicates[0]
    if len(predicates) == 2:
        one, two = predicates
        return lambda device: one(device) or two(device)
    every = tuple(predicates)

    def fits(device: Device) -> bool:
        for predicate in every:  # noqa: SIM110 -- `any` makes a generator at each device
            if predicate(device):
                return True
        return False

    return fits
