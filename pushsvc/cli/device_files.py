"""Files of devices: which format, and their records one after the other, in bounded memory, whatever is in them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import typer
from msgspec import Struct

from ..errors import Fault
from .device_lines import BadHeader, BadLine, Format, check_header, read_ndjson, read_row

LONGEST = 64 * 1024
"""Bytes of a line; a device of every field at its bound has less."""
_BOM = b"\xef\xbb\xbf"
SUFFIXES: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


class Entry(Struct, frozen=True):
    """One record of a file. What is wrong with it, if it cannot even be read, is in `fault`."""

    line: int
    """Where it begins, from 1."""
    text: str
    value: object = None
    fault: BadLine | None = None


def format_of(path: str, told: str) -> Format:
    """By the option, else by the suffix. Ends with wrong usage where neither says it."""
    if told:
        if told not in ("csv", "ndjson"):
            raise typer.BadParameter(f"--format: no {told!r}; there are csv and ndjson")
        return "csv" if told == "csv" else "ndjson"
    if path == "-":
        return "ndjson"
    found = SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        raise typer.BadParameter(f"--format is needed: {path!r} ends neither in .csv nor in .ndjson or .jsonl")
    return found


def entries(stream: BinaryIO, form: Format) -> Iterator[Entry]:
    """The records of a file, good or bad; empty lines are none. Raises BadHeader."""
    lines = _lines(stream)
    yield from _csv(lines) if form == "csv" else _ndjson(lines)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line by its number, with its end; None for one that is too long."""
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        if len(line) <= LONGEST or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(LONGEST + 1)
        yield number, None


def _ndjson(lines: Iterator[tuple[int, bytes | None]]) -> Iterator[Entry]:
    for number, line in lines:
        if line is None:
            yield Entry(number, "", fault=_too_long())
        elif line.strip():
            text = line.decode(errors="replace").rstrip("\r\n")
            try:
                yield Entry(number, text, read_ndjson(line))
            except BadLine as fault:
                yield Entry(number, text, fault=fault)


class _Rows:
    """The lines of a CSV as its reader takes them, and those that the present record is made of."""

    def __init__(self, lines: Iterator[tuple[int, bytes | None]]) -> None:
        self._lines = lines
        self.first = 0
        self.taken: list[str] = []
        self.fault: BadLine | None = None

    def begin(self) -> None:
        self.first, self.taken, self.fault = 0, [], None

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.first = self.first or number
        if line is None or sum(map(len, self.taken)) > LONGEST:
            self.fault = _too_long()
            return "\n"
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self.fault = BadLine([Fault("$", "is not UTF-8")])
            text = line.decode(errors="replace")
        self.taken.append(text)
        return text


def _csv(lines: Iterator[tuple[int, bytes | None]]) -> Iterator[Entry]:
    rows = _Rows(lines)
    csv.field_size_limit(LONGEST)
    reader = csv.reader(rows, strict=True)
    try:
        names = next(reader, None)
    except csv.Error as error:
        raise BadHeader(f"the first line is no header: {error}") from None
    if names is None:
        return
    check_header(names)
    while True:
        rows.begin()
        fault: BadLine | None = None
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells, fault = [], BadLine([Fault("$", f"is not CSV: {error}")])
        if cells is None:
            return
        text = "".join(rows.taken).rstrip("\r\n")
        fault = rows.fault or fault
        if fault is not None:
            yield Entry(rows.first, text, fault=fault)
        elif cells:
            try:
                yield Entry(rows.first, text, read_row(names, cells))
            except BadLine as bad:
                yield Entry(rows.first, text, fault=bad)


def _too_long() -> BadLine:
    return BadLine([Fault("$", f"is longer than {LONGEST:,} bytes")])
