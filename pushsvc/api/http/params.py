"""Parameters of the path, the query and the headers: declared once, validated strictly, and described in the OpenAPI
document by the same declaration. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from msgspec import Struct, field

from ...errors import Fault, InvalidRequest

JSON: Final = "application/json"

_DIGITS: Final = re.compile(r"[0-9]{1,9}")


class QueryParam(Struct, frozen=True):
    """A query parameter. With `least` and `most` it is a whole number, otherwise a text."""

    name: str
    description: str
    options: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    default: int | None = None
    length: int = 128
    """The maximum number of characters of a text."""

    def schema(self) -> dict[str, Any]:
        """Return its JSON Schema."""
        if self.options:
            return {"type": "string", "enum": list(self.options)}
        if self.least is not None:
            return {"type": "integer", "minimum": self.least, "maximum": self.most, "default": self.default}
        return {"type": "string", "maxLength": self.length}

    def parse(self, text: str) -> str | int:
        """Return its value. Raises `ValueError` with what is wrong."""
        if self.least is not None and self.most is not None:
            if not _DIGITS.fullmatch(text) or not self.least <= int(text) <= self.most:
                raise ValueError(f"must be a whole number from {self.least:,} to {self.most:,}")
            return int(text)
        if self.options:
            if text not in self.options:
                raise ValueError("must be one of " + ", ".join(self.options))
        elif len(text) > self.length or not text.isprintable():
            raise ValueError(f"must be at most {self.length} printable characters")
        return text


class PathParam(Struct, frozen=True):
    """A name in the path."""

    name: str
    description: str
    shape: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})
    """The JSON Schema."""
    parse: Callable[[str], str] = str
    """Returns its value. Raises `ValueError` with what is wrong, or `NotFound` where nothing can have such a name."""

    def schema(self) -> dict[str, Any]:
        return dict(self.shape)


class HeaderParam(Struct, frozen=True):
    """A header that a call uses. A header that was not sent has no value."""

    name: str
    description: str
    shape: Mapping[str, Any]
    """The JSON Schema."""
    parse: Callable[[list[str]], Any]
    """Returns the value from every occurrence of the header. Raises `InvalidRequest`."""

    def schema(self) -> dict[str, Any]:
        return dict(self.shape)


def read_query(pairs: Iterable[tuple[str, str]], params: tuple[QueryParam, ...]) -> dict[str, Any]:
    """Return the values by name, with the defaults of those that are not given or empty (None for a text): the first
    page of a list may be asked for with `cursor=`. Raises `InvalidRequest` naming every fault. An unknown parameter is
    one: if a mistyped `outcom=failed` were ignored, the answer would be to another question."""
    known = {param.name: param for param in params}
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, text in pairs:
        param = known.get(name)
        if param is None:
            names = ", ".join(known)
            shown = name if name.isprintable() and len(name) <= 40 else "?"
            faults.append(Fault(shown, f"unknown query parameter; known here: {names or 'none'}"))
        elif name in values:
            faults.append(Fault(name, "is given more than once"))
        else:
            try:
                values[name] = param.parse(text) if text else param.default
            except ValueError as error:
                values[name] = None
                faults.append(Fault(name, str(error)))
    if faults:
        raise InvalidRequest("The query parameters are not valid.", faults=faults[:1000])
    return {param.name: values.get(param.name, param.default) for param in params}


def read_path(given: Mapping[str, str], names: tuple[PathParam, ...]) -> dict[str, str]:
    """Return the values by name. Raises `InvalidRequest` naming every fault, or what the parsers of the names raise."""
    values: dict[str, str] = {}
    faults: list[Fault] = []
    for name in names:
        try:
            values[name.name] = name.parse(given[name.name])
        except ValueError as error:
            faults.append(Fault(name.name, str(error)))
    if faults:
        raise InvalidRequest("The path is not valid.", faults=faults)
    return values
