"""The meaning of a comparison, field by field: closures over a device that read one value.

Each kind of field defines which values it accepts (`read`), when it is one of them (`among`), when it is before or
after one (`ordered`), and when it has none (`missing`). Everything else, such as `!=` and `not in`, is built from
these in `reading.py`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, TypeAlias, get_args

from ...model.devices import NOBODY, Device, Environment, TagValue
from ...model.instants import parse_instant, parse_span
from .words import Value

Predicate: TypeAlias = Callable[[Device], bool]
Get: TypeAlias = Callable[[Device], str | None]
Order: TypeAlias = Callable[[Any, Any], bool]

ORDERS: Final[Mapping[str, Order]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

_REMEMBERED: Final = 4096
"""The number of distinct locales or versions whose result a comparison caches: most devices have one of a few."""


def never(device: Device) -> bool:
    """Return False: no device matches. `and`, `or` and lists preserve it, so that an impossible expression is this
    function."""
    return False


class Field(Protocol):
    """A kind of field. `read` raises `ValueError` with what is expected; the others are given what it returned."""

    orders: str
    """Why `<` and its like are refused, or empty where they are taken."""
    equals: str
    """Why `==` and its like are refused, or empty."""

    def read(self, value: Value) -> Any: ...

    def among(self, values: Sequence[Any]) -> Predicate: ...

    def ordered(self, order: Order, value: Any) -> Predicate: ...

    def missing(self) -> Predicate: ...


class Text:
    """Text that is compared for equality only, such as `user`."""

    orders = "has no order; compare it with ==, != or in"
    equals = ""

    def __init__(self, get: Get, allowed: Sequence[str] = ()) -> None:
        self._get = get
        self._allowed = allowed

    def read(self, value: Value) -> str:
        if not isinstance(value, str):
            raise ValueError("is compared with a text in quotes")
        if self._allowed and value not in self._allowed:
            raise ValueError("is " + " or ".join(f"'{each}'" for each in self._allowed))
        return value

    def among(self, values: Sequence[str]) -> Predicate:
        get = self._get
        if len(values) == 1:
            wanted = values[0]
            return lambda device: get(device) == wanted
        many = frozenset(values)
        return lambda device: get(device) in many

    def ordered(self, order: Order, value: str) -> Predicate:
        raise NotImplementedError(self.orders)

    def missing(self) -> Predicate:
        get = self._get
        return lambda device: get(device) is None


class Name(Text):
    """A name that an app gives, as `user`."""

    def among(self, values: Sequence[str]) -> Predicate:
        possible = [value for value in values if not value.startswith(NOBODY)]
        return super().among(possible) if possible else never


class Locale(Text):
    """A language range: RFC 4647, basic filtering."""

    def read(self, value: Value) -> str:
        plain = _plain_locale(super().read(value))
        if not _LOCALE.fullmatch(plain):
            raise ValueError("is compared with a locale, as 'de' or 'de-AT'")
        return plain

    def among(self, values: Sequence[str]) -> Predicate:
        many = frozenset(values)

        @lru_cache(_REMEMBERED)
        def fits(locale: str) -> bool:
            part = _plain_locale(locale)
            while part not in many:
                part = part.rpartition("-")[0]
                if not part:
                    return False
            return True

        return lambda device: device.locale is not None and fits(device.locale)


_LOCALE: Final = re.compile(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8})*")


def _plain_locale(text: str) -> str:
    return text.lower().replace("_", "-")


class Version:
    orders = equals = ""

    def read(self, value: Value) -> tuple[Any, ...]:
        found = version_of(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError("is compared with a version in quotes, as '3.2.0'")
        return found

    def among(self, values: Sequence[tuple[Any, ...]]) -> Predicate:
        many = frozenset(values)
        return self._when(lambda version: version in many)

    def ordered(self, order: Order, value: tuple[Any, ...]) -> Predicate:
        return self._when(lambda version: order(version, value))

    def missing(self) -> Predicate:
        return lambda device: device.app_version is None or version_of(device.app_version) is None

    def _when(self, judge: Callable[[tuple[Any, ...]], bool]) -> Predicate:
        @lru_cache(_REMEMBERED)
        def fits(text: str) -> bool:
            version = version_of(text)
            return version is not None and judge(version)

        return lambda device: device.app_version is not None and fits(device.app_version)


_VERSION: Final = re.compile(r"v?([0-9]{1,18}(?:\.[0-9]{1,18})*)(?:-([0-9A-Za-z.-]+))?(?:[+ ].*)?", re.DOTALL)


def version_of(text: str) -> tuple[Any, ...] | None:
    """Return a key that orders versions, pre-releases as in https://semver.org/#spec-item-11, or None if it is none."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    numbers = [int(number) for number in match[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    if match[2] is None:
        return tuple(numbers), (1,)
    parts = ((0, int(part), "") if part.isdigit() else (1, 0, part) for part in match[2][:64].split("."))
    return tuple(numbers), (0, *parts)


class Instant:
    """An instant in Unix milliseconds; 0 is none."""

    orders = ""
    equals = "is an instant; compare it with <, <=, > or >="

    def __init__(self, get: Callable[[Device], int], now: int) -> None:
        self._get = get
        self._now = now

    def read(self, value: Value) -> int:
        found = _instant_of(value, self._now) if isinstance(value, str) else None
        if found is None:
            raise ValueError(
                "is compared with an instant in quotes: '2026-12-01T09:00:00Z', '2026-12-01', or '30d' ago"
            )
        return found

    def among(self, values: Sequence[int]) -> Predicate:
        raise NotImplementedError(self.equals)

    def ordered(self, order: Order, value: int) -> Predicate:
        get = self._get

        def fits(device: Device) -> bool:
            at = get(device)
            return at != 0 and order(at, value)

        return fits

    def missing(self) -> Predicate:
        get = self._get
        return lambda device: get(device) == 0


def _instant_of(text: str, now: int) -> int | None:
    span = parse_span(text.removesuffix(" ago"))
    if span is not None:
        return now - span * 1000
    try:
        return parse_instant(f"{text}T00:00:00Z" if len(text) == len("2026-12-01") else text)
    except ValueError:
        return None


class Tag:
    """A tag: text, a number, a boolean, or a list of texts, which represents each of them."""

    orders = equals = ""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, value: Value) -> TagValue:
        assert value is not None  # `null` asks for `missing`
        return value

    def among(self, values: Sequence[TagValue]) -> Predicate:
        name = self._name
        if len(values) == 1 and isinstance(values[0], str):
            text = values[0]

            def is_text(device: Device) -> bool:
                value = device.tags.get(name)
                return value == text or (type(value) is tuple and text in value)

            return is_text
        # True is 1 in Python, but not in an expression: the type is a part of the value.
        many = frozenset((_sort(value), value) for value in values)
        texts = frozenset(value for value in values if isinstance(value, str))

        def is_one(device: Device) -> bool:
            value = device.tags.get(name)
            if type(value) is tuple:
                return not texts.isdisjoint(value)
            return (_sort(value), value) in many

        return is_one

    def ordered(self, order: Order, value: TagValue) -> Predicate:
        name, sort = self._name, _sort(value)

        def fits(device: Device) -> bool:
            own = device.tags.get(name)
            if type(own) is tuple:
                return sort is str and any(order(each, value) for each in own)
            return _sort(own) is sort and order(own, value)

        return fits

    def missing(self) -> Predicate:
        name = self._name
        return lambda device: device.tags.get(name) is None


def _sort(value: object) -> type:
    return float if type(value) is int else type(value)


def fields_at(now: int, platforms: Sequence[str]) -> dict[str, Field]:
    """Return the fields by name, but for tags. `now` in Unix milliseconds."""
    return {
        "platform": Text(operator.attrgetter("platform"), platforms),
        "user": Name(operator.attrgetter("user")),
        "locale": Locale(operator.attrgetter("locale")),
        "timezone": Text(operator.attrgetter("timezone")),
        "app_version": Version(),
        "environment": Text(operator.attrgetter("environment"), get_args(Environment)),
        "registered": Instant(operator.attrgetter("registered_at"), now),
        "last_seen": Instant(operator.attrgetter("last_seen_at"), now),
    }
