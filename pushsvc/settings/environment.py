"""Overrides from the environment: `PUSHSVC__SECTION__KEY` replaces the value of the file, before validation.

Two underscores separate the names, which are compared without regard to case: `PUSHSVC__RETRY__BASE`,
`PUSHSVC__APPS__SHOP__APNS__KEY_ID`, `PUSHSVC__APPS__SHOP__KEYS__0__NAME`. Shell variables cannot contain a dash, so
`MY_APP` also matches an app that the file calls `my-app`; without such an app it creates the app `my_app`. A value is
parsed by the type of its key: numbers and `true`/`false` as they are, lists with commas or as JSON, sections as JSON.

`.._FILE`, or `..__FILE`, names a file that contains the value, as Docker and Kubernetes provide secrets:
`PUSHSVC__REDIS__URL_FILE=/run/secrets/redis`. A newline at its end is removed. A running process watches these files
as it does those that the configuration names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, cast, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from ..decoding import Faults, Rule, expected, is_struct
from ..wording import TOML, did_you_mean, join
from .schema import AppSettings, Settings

PREFIX = "PUSHSVC__"
_FILE = "_file"
_OURS = "PUSHSVC_"
_LINK = re.compile(r"(?:tcp|udp|sctp)://")
"""The value of `PUSHSVC_LIVE_PORT` where there is a service `pushsvc-live`."""
_APP, _INDEX = "<app>", "<index>"
_PLACES = {_APP: r"(\w+?)", _INDEX: r"(\d+)"}
_NUMBER = re.compile(r"[0-9]{1,9}")
"""The place of an entry in a list. A longer one is that of no list."""


def names_of(variable: str) -> list[str]:
    """Return the names of section and key in a variable of ours, in lower case; none for any other variable."""
    name = variable.upper()
    return name[len(PREFIX) :].lower().split("__") if name.startswith(PREFIX) and name != PREFIX else []


def override(environ: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the variables of `values`, and without others that would set the same keys: in
    another case, or by the name of a file."""
    keys = {_key_of(variable) for variable in values}
    return {variable: text for variable, text in environ.items() if _key_of(variable) not in keys} | dict(values)


def _key_of(variable: str) -> tuple[str, ...]:
    """Return the names of the key that a variable sets, itself or by a file; the name of a variable that sets none."""
    *names, last = names_of(variable) or [variable]
    return tuple(names) if names and last == "file" else (*names, last.removesuffix(_FILE) if names else last)


def _order(variable: str) -> list[tuple[int, str]]:
    """Return what variables are sorted by: a section as JSON comes before a key within it, and the tenth entry of a
    list after the ninth."""
    return [(int(name), "") if _NUMBER.fullmatch(name) else (10**9, name) for name in names_of(variable)]


def sections_of(kind: type[Struct], providers: Mapping[str, type[Struct]]) -> dict[str, Any]:
    """Return the keys of a section that may be written, by name. Those of an app include its providers."""
    names = {field.encode_name: _section_type(field.type) for field in structs.fields(kind)}
    if issubclass(kind, Settings):
        del names["file"], names["value_files"]
    if kind is AppSettings:
        del names["name"], names["providers"]
        names.update(providers)
    return names


def misspelt(environ: Mapping[str, str], kind: type[Settings], providers: Mapping[str, type[Struct]]) -> dict[str, str]:
    """Return the right name for each variable that begins with `PUSHSVC_`, is not read, and would set a key if its
    underscores were right. The links that Docker and Kubernetes make of the names of services are none."""
    found: dict[str, str] = {}
    for variable, text in environ.items():
        name = variable.upper()
        if not name.startswith(_OURS) or name.startswith(PREFIX) or _LINK.match(text):
            continue
        for words in _keys_of(kind, providers):
            pattern = "_+".join(_PLACES.get(word) or word.replace("_", "_+") for word in words)
            if match := re.fullmatch(f"{_OURS}{pattern}(?:_+(FILE))?", name):
                *given, file = match.groups()
                own = iter(given)
                right = "__".join(next(own) if word in (_APP, _INDEX) else word for word in words)
                found[variable] = f"{PREFIX}{right}{f'_{file}' if file else ''}"
                break
    return found


def _keys_of(
    kind: type[Struct], providers: Mapping[str, type[Struct]], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the words of every key that a variable may set, in capital letters, with `_APP` and `_INDEX` in them."""
    for name, each in sections_of(kind, providers).items():
        words = (*above, name.upper())
        if words == ("APPS",):
            yield from _keys_of(AppSettings, providers, (*words, _APP))
        elif is_struct(each):
            yield from _keys_of(each, providers, words)
        elif (element := _element(each)) is not None:
            yield from _keys_of(element, providers, (*words, _INDEX))
        else:
            yield words


def overlay(
    tree: dict[str, Any],
    environ: Mapping[str, str],
    kind: type[Settings],
    providers: Mapping[str, type[Struct]],
    faults: Faults,
) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Apply the environment to `tree`, which becomes a `kind`. Returns the name of the variable for each dotted path
    that was set, and the files that variables name as those of their values."""
    origins: dict[str, str] = {}
    files: list[Path] = []
    for variable in sorted(sorted(filter(names_of, environ)), key=_order):
        _Walk(variable, environ[variable], providers, faults, origins, files).into(tree, kind)
    return origins, tuple(files)


@dataclass
class _Walk:
    """One variable's way down the tree."""

    variable: str
    text: str
    providers: Mapping[str, type[Struct]]
    faults: Faults
    origins: dict[str, str]
    files: list[Path]

    def into(self, tree: dict[str, Any], kind: type[Settings]) -> None:
        self._section(tree, kind, names_of(self.variable), "")

    def _section(self, tree: dict[str, Any], kind: type[Struct], names: list[str], path: str) -> None:
        known = sections_of(kind, self.providers)
        by_case = {name.lower(): name for name in known}
        given = names[0]
        name = by_case.get(given)
        if name is None and given.endswith(_FILE) and len(names) == 1 and (name := by_case.get(given[: -len(_FILE)])):
            names = [name, "file"]
        if name is None:
            self.faults(self.variable, f"no such key `{join(path, given)}`; {did_you_mean(given, known)}")
            return
        self._value(tree, name, known[name], names[1:], join(path, name))

    def _value(self, tree: dict[str, Any], name: str, kind: Any, rest: list[str], path: str) -> None:
        if rest == ["file"] and not is_struct(kind) and _element(kind) is None:
            if path == "apps":
                self._app(self._child(tree, name), rest)
            elif self._read_file(path):
                self._value(tree, name, kind, [], path)
        elif not rest:
            if path in self.origins:
                self.faults(self.variable, f"sets `{path}`, as {self.origins[path]} does: leave one of them out")
            tree[name] = self._parse(kind, path)
            self.origins[path] = self.variable
        elif path == "apps":
            self._app(self._child(tree, name), rest)
        elif is_struct(kind):
            self._section(self._child(tree, name), kind, rest, path)
        elif (element := _element(kind)) is not None:
            self._item(tree, name, element, rest, path)
        else:
            self.faults(self.variable, f"`{path}` is a value and has no keys of its own")

    def _read_file(self, path: str) -> bool:
        """Replace the text by that of the file that the variable names. Returns whether it could be read."""
        file = Path(self.text.strip())
        self.files.append(file)
        try:
            self.text = file.read_bytes().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            self.faults(self.variable, f"{file}, which holds `{path}`, cannot be read: {error.strerror or error}")
        except UnicodeDecodeError as error:
            self.faults(self.variable, f"{file}, which holds `{path}`, is not UTF-8 at byte {error.start}")
        else:
            return True
        return False

    def _app(self, apps: dict[str, Any], rest: list[str]) -> None:
        whole = "__".join(rest)
        # The longest first: `shop__eu` must not be taken for a section `eu` of `shop`.
        fitting = [
            (len(name), name) for name in apps if (whole + "__").startswith(name.lower().replace("-", "_") + "__")
        ]
        longest = max(fitting, default=(0, ""))[0]
        names = [name for length, name in fitting if length == longest]
        if len(names) > 1:
            self.faults(self.variable, f"matches more than one app: {', '.join(names)}; set it in the file")
            return
        name, used = (names[0], names[0].count("__") + 1) if names else (rest[0], 1)
        if not rest[used:]:
            apps[name] = self._parse(AppSettings, f"apps.{name}")
            self.origins[f"apps.{name}"] = self.variable
        else:
            self._section(self._child(apps, name), AppSettings, rest[used:], f"apps.{name}")

    def _item(self, tree: dict[str, Any], name: str, element: type[Struct], rest: list[str], path: str) -> None:
        items = tree.setdefault(name, [])
        if not isinstance(items, list):
            return  # The file has something else there, which is reported when the tree is decoded.
        if not _NUMBER.fullmatch(rest[0]) or int(rest[0]) > len(items) or not rest[1:]:
            self.faults(
                self.variable, f"expected a number from 0 to {len(items)} after {name.upper()}__, and then a key"
            )
            return
        index = int(rest[0])
        if index == len(items):
            items.append({})
        if isinstance(items[index], dict):
            self._section(items[index], element, rest[1:], f"{path}[{index}]")

    @staticmethod
    def _child(tree: dict[str, Any], name: str) -> dict[str, Any]:
        child = tree.setdefault(name, {})
        # Not a section in the file: reported when the tree is decoded, so the value is discarded here.
        return child if isinstance(child, dict) else {}

    def _parse(self, kind: Any, path: str) -> Any:
        """Return the text as TOML would have it. What does not parse stays text, for the decoder to name."""
        text = self.text.strip()
        kind = _bare(kind)
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "on": True}.get(
                text.lower(), {"false": False, "0": False, "no": False, "off": False}.get(text.lower(), self.text)
            )
        if kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                return self.text
        if get_origin(kind) in (list, tuple) and not text.startswith("["):
            return [part.strip() for part in text.split(",")] if text else []
        if get_origin(kind) in (list, tuple, dict) or is_struct(kind):
            try:
                return msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError) as error:
                self.faults(self.variable, f"expected {expected(kind, TOML)} as JSON: {error}")
                return {} if is_struct(kind) else []
        return self.text


def _section_type(kind: Any) -> Any:
    """Return the struct of a section that may be left out; any other type as it is."""
    bare = _bare(kind)
    return bare if is_struct(bare) else kind


def _element(kind: Any) -> type[Struct] | None:
    """Return the struct of which `kind` is a tuple, or None."""
    if get_origin(kind) is tuple and is_struct(get_args(kind)[0]):
        return cast(type[Struct], get_args(kind)[0])
    return None


def _bare(kind: Any) -> Any:
    """Return the type without bounds and without `| None`; `str` where a rule parses a text."""
    if get_origin(kind) is Annotated:
        base, *notes = get_args(kind)
        return str if any(isinstance(note, Rule) and note.parse for note in notes) else _bare(base)
    if get_origin(kind) in (Union, UnionType):
        choices = [choice for choice in get_args(kind) if choice is not NoneType]
        return _bare(choices[0]) if len(choices) == 1 else kind
    return kind
