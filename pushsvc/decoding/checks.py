"""The fast way: whether what msgspec has decoded follows also the rules that msgspec does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Union

from msgspec import Struct

from .shapes import Shape, fields_of, is_struct

Check = Callable[[Any], Iterable[tuple[str, str]]]
"""Yields the faults of a struct that no single field has, each as the path below it and a message. Fields that could
not be decoded are `WRONG`."""
Checks = Mapping[type[Struct], Check]
NO_CHECKS: Final[Checks] = MappingProxyType({})


def right(value: Struct, checks: Checks = NO_CHECKS) -> bool:
    """Return whether a struct that msgspec has decoded has no fault by the rules of its types and the `checks`
    either."""
    for name, test in _tests(type(value)):
        item = getattr(value, name)
        if item is not None and not test(item, checks):
            return False
    check = checks.get(type(value))
    return check is None or not any(True for _ in check(value))


_Test = Callable[[Any, Checks], bool]


@cache
def _tests(kind: type[Struct]) -> list[tuple[str, _Test]]:
    return [(field.name, test) for field in fields_of(kind).values() if (test := _test(field.shape)) is not None]


def _test(shape: Shape) -> _Test | None:
    """Return the test that a value of this shape must pass, or None where its type is sufficient."""
    if is_struct(shape.base):
        return right
    inner = [_test(each) for each in shape.inner]
    fault = shape.rule.fault
    if fault is None and inner.count(None) == len(inner):
        return None
    if shape.base is Union and any(test not in (None, right) for test in inner):
        raise TypeError(f"a choice of {shape.kind} has a rule: give it to the union")

    def passes(value: Any, checks: Checks) -> bool:
        if shape.base is Union:
            return (fault is None or fault(value) is None) and (not isinstance(value, Struct) or right(value, checks))
        for test, items in zip(inner, (value,) if shape.base is not dict else (value, value.values()), strict=False):
            if test is not None and not all(item is None or test(item, checks) for item in items):
                return False
        return fault is None or fault(value) is None

    return passes
