"""Files of devices: their format and their records, read one by one in bounded memory whatever the file contains."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from msgspec import Struct

from ...api.devices.importing import BadLine
from ...errors import Fault
from ...model.address import Addresses
from ..progress import open_bars
from .lines import BadHeader, Format, check_header, read_ndjson, read_row

LONGEST = 64 * 1024
"""The maximum length of a line in bytes. A device with every field at its limit is shorter."""
_BOM = b"\xef\xbb\xbf"
SUFFIXES: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


class FileRecord(Struct, frozen=True):
    """A record of a file. `fault` is the reason for which it cannot be read, if so."""

    line: int
    """The number of its first line, counted from 1."""
    text: str
    value: object = None
    fault: BadLine | None = None


def format_of(path: str, option: str) -> Format:
    """Return the format that the option or the file's suffix names. Ends with wrong usage if neither does."""
    if option:
        if option not in ("csv", "ndjson"):
            raise typer.BadParameter(f"--format: no {option!r}; there are csv and ndjson")
        return "csv" if option == "csv" else "ndjson"
    if path == "-":
        return "ndjson"
    found = SUFFIXES.get(Path(path).suffix.lower())
    if found is None:
        raise typer.BadParameter(f"--format is needed: {path!r} ends neither in .csv nor in .ndjson or .jsonl")
    return found


def entries(stream: BinaryIO, form: Format, addresses: Addresses) -> Iterator[FileRecord]:
    """Yield the records of a file, valid or not. Skips empty lines. Raises `BadHeader`."""
    lines = _lines(stream)
    yield from _csv(lines, addresses) if form == "csv" else _ndjson(lines)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield each line with its number and its line end, or None for a line that is too long."""
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


def _ndjson(lines: Iterator[tuple[int, bytes | None]]) -> Iterator[FileRecord]:
    for number, line in lines:
        if line is None:
            yield FileRecord(number, "", fault=_too_long())
        elif line.strip():
            text = line.decode(errors="replace").rstrip("\r\n")
            try:
                yield FileRecord(number, text, read_ndjson(line))
            except BadLine as fault:
                yield FileRecord(number, text, fault=fault)


def _csv(lines: Iterator[tuple[int, bytes | None]], addresses: Addresses) -> Iterator[FileRecord]:
    """Yield the records of a CSV file. Each line is one record, regardless of its quotes.

    No field of a device may contain a newline, so an unclosed quote invalidates its own line only.
    """
    csv.field_size_limit(LONGEST)
    names: list[str] | None = None
    for number, line in lines:
        text, cells, fault = _cells(line)
        if names is None:
            if fault is not None:
                raise BadHeader(f"the first line is not a header: {fault}")
            check_header(cells, addresses)
            names = cells
        elif fault is not None:
            yield FileRecord(number, text, fault=fault)
        elif cells:
            try:
                yield FileRecord(number, text, read_row(names, cells, addresses))
            except BadLine as bad:
                yield FileRecord(number, text, fault=bad)


def _cells(line: bytes | None) -> tuple[str, list[str], BadLine | None]:
    """Return the text of a line, its cells, and its fault if there is one."""
    if line is None:
        return "", [], _too_long()
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return line.decode(errors="replace").rstrip("\r\n"), [], BadLine([Fault("$", "is not UTF-8")])
    if not text:
        return text, [], None
    try:
        return text, next(csv.reader([text], strict=True)), None
    except csv.Error as error:
        why = "a quote is not closed" if "end of data" in str(error) else str(error)
        return text, [], BadLine([Fault("$", f"is not CSV: {why}")])


def _too_long() -> BadLine:
    return BadLine([Fault("$", f"is longer than {LONGEST:,} bytes")])


@contextmanager
def progress(total: float | None, *, start: int = 0, quiet: bool = False) -> Iterator[Callable[[float, int], None]]:
    """Show a progress bar with the rate and the remaining time at a terminal, or nothing.

    Yields a callback that takes the part of `total` that is done, and the number of devices. `start` are those that
    were done before.
    """
    columns = ("share", "{task.fields[devices]:,} devices, {task.fields[rate]:,.0f}/s", "elapsed", "remaining")
    began = time.monotonic()
    with open_bars(sys.stderr, *columns, quiet=quiet) as bars:
        task = bars.add_task("", total=total or None, devices=start, rate=0.0)

        def show(done: float, count: int) -> None:
            rate = (count - start) / max(0.001, time.monotonic() - began)
            bars.update(task, completed=done, devices=count, rate=rate)

        yield show
