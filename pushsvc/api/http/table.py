"""Selects the call of a method and a path. Pure.

A path without names is looked up, and comes before one with names: `batch` in `/v1/push/batch` is no push id. A name is
anything but a slash, also braces, which are common around GUIDs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_NO_NAMES: Final[Mapping[str, str]] = {}


class Table(Generic[T]):
    """The calls, each with its method and its path. HEAD is served where GET is."""

    def __init__(self, calls: Iterable[tuple[str, str, T]]) -> None:
        by_path: dict[str, dict[str, T]] = {}
        for method, path, call in calls:
            methods = by_path.setdefault(path, {})
            methods[method] = call
            if method == "GET":
                methods["HEAD"] = call
        self.plain: Mapping[str, Mapping[str, T]] = {path: own for path, own in by_path.items() if "{" not in path}
        """The calls of each path without names, by method."""
        self._by_path = by_path
        self._named = [(path.split("/"), own) for path, own in by_path.items() if "{" in path]

    def find(self, path: str) -> tuple[Mapping[str, T], Mapping[str, str]]:
        """Return the calls of a path by method, none for an unknown path, and the values of the names in it.

        The path is decoded except for `%2F` and `%25`, as `yarl.URL.path_safe` is.
        """
        found = self.plain.get(path)
        if found is not None:
            return found, _NO_NAMES
        given = path.split("/")
        for parts, methods in self._named:
            if len(parts) == len(given):
                names: dict[str, str] = {}
                for part, text in zip(parts, given, strict=True):
                    if part[:1] == "{" and text:
                        names[part[1:-1]] = text.replace("%2F", "/").replace("%25", "%")
                    elif part != text:
                        break
                else:
                    return methods, names
        return {}, _NO_NAMES

    def near(self, path: str) -> str:
        """Return the calls one step below or above a path, as `DELETE, GET /v1/push/{id}`, or those of the path without
        the slash at its end, or the empty string."""
        given = path.split("/")
        for template, methods in self._by_path.items():
            *parts, last = every = template.split("/")
            named = last[:1] == "{"
            if (named and _fit(parts, given)) or ((named or not given[-1]) and _fit(every, given[:-1])):
                return f"{', '.join(sorted(methods.keys() - {'HEAD'}))} {template}"
        return ""


def _fit(parts: Sequence[str], given: Sequence[str]) -> bool:
    return len(parts) == len(given) and all(
        part == text or (part[:1] == "{" and text) for part, text in zip(parts, given, strict=True)
    )
