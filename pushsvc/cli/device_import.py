"""`pushsvc devices import`: a file becomes devices, some hundred at a time, each line judged as the API would judge it.

Beside the file stands `FILE.position` while it is being read: how many records Redis has. A run that is broken off,
by Ctrl-C or kill -9, is gone on with by `--resume`; the records of its last second may be written twice, which is the
same as once. Lines that make no device go to `FILE.rejected`, with their number and what is wrong.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import msgspec
import typer
from msgspec import Struct

from ..errors import Fault, PushsvcError
from ..ports.registry import MOST_OF_USER, Registry, UserFull
from .device_files import Entry, entries, format_of
from .device_lines import BadLine, Format, read_device
from .failed import apps_of
from .output import Json, print_json
from .parts import until_signalled

if TYPE_CHECKING:
    from ..devices import Device
    from ..intake.faults import Rules
    from ..settings import Settings

BATCH = 500
"""Devices in one step of Redis."""
ANEW = "import without --resume"
SAVE_EVERY = 1.0
"""Seconds between two notes of the position."""


class Position(Struct, frozen=True):
    """How far an import has come, as it stands beside the file."""

    app: str
    size: int
    """Of the file: another one is not gone on with."""
    records: int = 0
    imported: int = 0
    new: int = 0
    rejected: int = 0


class FileUnreadable(PushsvcError):
    """The file cannot be opened, or is not the one that was begun with."""


def import_devices(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="CSV or NDJSON; `-` reads standard input.", metavar="FILE")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    form: Annotated[
        str, typer.Option("--format", help="csv or ndjson; by default by the file's suffix.", metavar="FORMAT")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run was broken off.")] = False,
    rejects: Annotated[
        str, typer.Option("--rejects", help="Where bad lines go; by default FILE.rejected.", metavar="FILE")
    ] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there were bad lines.")] = False,
    json: Json = False,
) -> None:
    """Register devices from a file: each line is a whole device, and takes the place of one with its id or token.

    Fields are those of the API, and `id`, `topics`, `registered_at`, `last_seen_at`, `strikes`, `struck_at`; of a
    tombstone `state`, `pruned_at`, `pruned_for`. In CSV `tags` are JSON, and topics have spaces between them. Bad lines
    are skipped.
    """
    settings: Settings = context.obj.settings()
    apps_of(settings, app)
    wanted = format_of(file, form)
    if file == "-" and resume:
        raise typer.BadParameter("--resume: standard input cannot be gone on with")
    bad = Path(rejects or ("devices.rejected" if file == "-" else f"{file}.rejected"))
    began = time.monotonic()
    at, done = asyncio.run(_import(settings, app, file, wanted, bad, resume=resume, quiet=json))
    seconds = time.monotonic() - began
    told = {
        "app": app,
        "imported": at.imported,
        "new": at.new,
        "rejected": at.rejected,
        "rejects": str(bad) if at.rejected else None,
        "done": done,
        "seconds": round(seconds, 3),
    }
    if json:
        print_json(told)
    else:
        print(f"{at.imported:,} devices imported, {at.new:,} of them new, in {seconds:,.1f} s")
        if at.rejected:
            typer.echo(f"{at.rejected:,} bad lines: {bad} says what is wrong", err=True)
    if not done:
        typer.echo("broken off: --resume goes on" if file != "-" else "broken off", err=True)
        raise typer.Exit(130)
    if strict and at.rejected:
        raise typer.Exit(1)


def rules_of(settings: Settings, app: str) -> Rules:
    """What the app's devices are judged by, over HTTP and here."""
    from ..intake.faults import Rules
    from ..providers import REGISTRY

    renderers = {platform: kind.renderer for platform, kind in REGISTRY.items()}
    return Rules.of(app, frozenset(settings.apps[app].providers), renderers)


async def _import(
    settings: Settings, app: str, file: str, form: Format, rejects: Path, *, resume: bool, quiet: bool
) -> tuple[Position, bool]:
    """How far it has come, and whether that is the end."""
    from ..runtime import open_configured_store

    stop = until_signalled()
    with ExitStack() as stack:
        stream = stack.enter_context(_opened(file))
        notes = Notes(None if file == "-" else Path(f"{file}.position"))
        size = 0 if file == "-" else os.fstat(stream.fileno()).st_size
        start = notes.read(app, size) if resume else Position(app, size)
        bad = stack.enter_context(Rejects(rejects, kept=start.rejected))
        show = stack.enter_context(_display(stream, size, start, quiet))
        async with open_configured_store(settings) as store:
            importer = Importer(store.registry, rules_of(settings, app), start, bad, notes)
            done = await importer.run(entries(stream, form), stop.is_set, show)
        if done:
            notes.remove()
        return importer.at, done


class Importer:
    """Takes records to the registry."""

    def __init__(self, registry: Registry, rules: Rules, start: Position, rejects: Rejects, notes: Notes) -> None:
        self._registry = registry
        self._rules = rules
        self._rejects = rejects
        self._notes = notes
        self.at = start

    async def run(
        self, records: Iterator[Entry], stopping: Callable[[], bool], show: Callable[[Position], None]
    ) -> bool:
        """Until the last record, or until it is `stopping`; whether it was the last."""
        for _ in range(self.at.records):
            if next(records, None) is None:
                break
        due = time.monotonic() + SAVE_EVERY
        while not stopping():
            taken = 0
            batch: list[tuple[Entry, Device]] = []
            while len(batch) < BATCH and taken < 2 * BATCH and (entry := next(records, None)) is not None:
                taken += 1
                device = self._judged(entry)
                if device is not None:
                    batch.append((entry, device))
            new = await self._put(batch)
            at = self.at
            self.at = msgspec.structs.replace(
                at,
                records=at.records + taken,
                imported=at.imported + len(new),
                new=at.new + sum(new),
                rejected=self._rejects.count,
            )
            show(self.at)
            if not taken:
                return True
            if time.monotonic() >= due:
                self._save()
                due = time.monotonic() + SAVE_EVERY
        self._save()
        return False

    def _save(self) -> None:
        self._rejects.flush()
        self._notes.write(self.at)

    def _judged(self, entry: Entry) -> Device | None:
        try:
            if entry.fault is not None:
                raise entry.fault
            return read_device(entry.value, self._rules, time.time_ns() // 1_000_000)
        except BadLine as bad:
            self._rejects.add(entry, bad.faults)
            return None

    async def _put(self, batch: list[tuple[Entry, Device]]) -> list[bool]:
        while batch:
            try:
                return await self._registry.put_many(self._rules.app, [device for _, device in batch])
            except UserFull as full:
                refused = set(full.device_ids)
                fault = Fault(
                    "user", f"has {MOST_OF_USER:,} devices already; leave `user` out where it names no person"
                )
                for entry, device in batch:
                    if device.id in refused:
                        self._rejects.add(entry, [fault])
                batch = [each for each in batch if each[1].id not in refused]
        return []


class Rejects:
    """The file of bad lines, made when there is the first. Its lines hold what was given, and so may hold tokens."""

    def __init__(self, path: Path, *, kept: int) -> None:
        """`kept` lines of an earlier run are gone on with; what stands behind them is written again."""
        self._path = path
        self._file: BinaryIO | None = None
        self.count = kept

    def __enter__(self) -> Rejects:
        if not self.count:
            self._path.unlink(missing_ok=True)
        elif self._path.exists():
            with self._path.open("r+b") as file:
                for _ in range(self.count):
                    file.readline()
                file.truncate(file.tell())
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, entry: Entry, faults: object) -> None:
        if self._file is None:
            self._file = private(self._path, append=True)
        told = {"line": entry.line, "errors": faults, "given": entry.text}
        self._file.write(msgspec.json.encode(told) + b"\n")
        self.count += 1

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()


class Notes:
    """The position beside the file; there is none for standard input."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self, app: str, size: int) -> Position:
        """The position of the earlier run; the beginning where there is none. Raises FileUnreadable."""
        assert self._path is not None
        try:
            at = msgspec.json.decode(self._path.read_bytes(), type=Position)
        except FileNotFoundError:
            return Position(app, size)
        except (OSError, msgspec.MsgspecError) as error:
            raise FileUnreadable(
                f"{self._path} cannot be read ({type(error).__name__}): import without --resume"
            ) from None
        if (at.app, at.size) != (app, size):
            raise FileUnreadable(
                f"{self._path} is of another app or another version of the file: import without --resume"
            )
        return at

    def write(self, at: Position) -> None:
        if self._path is not None:
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_bytes(msgspec.json.encode(at))
            fresh.replace(self._path)

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def private(path: Path, *, append: bool = False) -> BinaryIO:
    """A file that nobody else can read, for writing: what goes into it holds device tokens."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    try:
        number = os.open(path, flags, 0o600)
        os.fchmod(number, 0o600)  # also where it was there before
    except OSError as error:
        raise FileUnreadable(f"{path} cannot be written: {error.strerror}") from None
    return os.fdopen(number, "wb")


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise FileUnreadable(f"{file} cannot be read: {error.strerror}") from None


@contextmanager
def _display(stream: BinaryIO, size: int, start: Position, quiet: bool) -> Iterator[Callable[[Position], None]]:
    """A bar with the rate and the time left at a terminal, nothing else."""
    if quiet or not sys.stderr.isatty():
        yield lambda at: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    shown = TextColumn("{task.fields[devices]:,} devices, {task.fields[rate]:,.0f}/s", markup=False)
    columns = (BarColumn(), TaskProgressColumn(), shown, TimeElapsedColumn(), TimeRemainingColumn())
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=size or None, devices=start.imported, rate=0.0)

        def show(at: Position) -> None:
            rate = (at.imported - start.imported) / max(0.001, time.monotonic() - began)
            read = stream.tell() if size else 0
            progress.update(task, completed=read, devices=at.imported, rate=rate)

        yield show
