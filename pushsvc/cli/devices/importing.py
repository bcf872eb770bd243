"""`pushsvc devices import`: register the devices of a file in batches. Each line is validated as the API would do it.

While a regular file is imported, `FILE.position` beside it holds the number of records that Redis has. `--resume`
continues an import that was interrupted, by Ctrl-C or kill -9; the records of its last second may be written twice,
which has the same result. Invalid lines go to `FILE.rejected`, with their number and the fault. A pipe has no
position, and its invalid lines go to `devices.rejected`, or to the file that `--rejects` names. What an earlier import
has left there moves to a file beside it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import typer
from msgspec import Struct

from ...api.devices.importing import MOST
from ...errors import Fault
from ...model.routing import platform_of
from ...redaction import scrub_text
from ..access import Key, Url
from ..files import FileFailed, is_regular, open_private, reading, write_whole
from ..operator.operator import open_operator
from ..output import Json, counted, print_json
from ..process import print_message
from ..running import run
from ..service.parts import until_signalled
from .files import FileRecord, entries, format_of, progress
from .lines import Format

if TYPE_CHECKING:
    from ...api.devices.importing import Taken
    from ...api.rules import Rules
    from ...settings.schema import Settings

ANEW = "import without --resume"
SAVE_EVERY = 1.0
"""Seconds between two writes of the position."""


NAMED = 5
"""How many faults of the first bad line are shown."""
HEAD = 1 << 20
"""The number of bytes at the start of a file that identify it."""


class FileIdentity(Struct, frozen=True):
    """Identifies a file, so that an import is not resumed in another file or another version of it."""

    size: int
    changed_ns: int
    head: str
    """SHA-256 of its first `HEAD` bytes."""


class FilePosition(Struct, frozen=True):
    """The progress of an import, as stored beside the file."""

    app: str
    file: FileIdentity
    records: int = 0
    imported: int = 0
    new: int = 0
    rejected: int = 0


def import_devices(
    context: typer.Context,
    file: Annotated[str, typer.Argument(help="CSV or NDJSON; `-` reads standard input.", metavar="FILE")],
    app: Annotated[str, typer.Option("--app", help="The app.", metavar="APP")],
    form: Annotated[
        str, typer.Option("--format", help="csv or ndjson; by default by the file's suffix.", metavar="FORMAT")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted import.")] = False,
    rejects: Annotated[
        str, typer.Option("--rejects", help="Where bad lines go; by default FILE.rejected.", metavar="FILE")
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 on any bad line, not only if nothing was imported.")
    ] = False,
    url: Url = "",
    key: Key = "",
    json: Json = False,
) -> None:
    """Register devices from a file. Each line is a complete device and replaces the one with its id or token.

    Fields are those of the API, plus `id`, `topics`, `registered_at`, `last_seen_at`, `strikes`, `struck_at`, and for
    a tombstone `state`, `pruned_at`, `pruned_for`. In CSV, `tags` is JSON and `topics` are separated by spaces.
    Invalid lines are skipped.
    """
    wanted = format_of(file, form)
    plain = file != "-" and is_regular(Path(file))
    if resume and not plain:
        raise typer.BadParameter("--resume: only a regular file can be resumed")
    bad = Path(rejects or (f"{file}.rejected" if plain else "devices.rejected"))
    began = time.monotonic()
    at, done, first = run(_import(context, app, url, key, file, wanted, bad, plain=plain, resume=resume, quiet=json))
    seconds = time.monotonic() - began
    report = {
        "app": app,
        "imported": at.imported,
        "new": at.new,
        "rejected": at.rejected,
        "rejects": str(bad) if at.rejected else None,
        "fault": first or None,
        "done": done,
        "seconds": round(seconds, 3),
    }
    if json:
        print_json(report)
    else:
        print(f"{counted(at.imported, 'device')} imported ({at.new:,} new) in {seconds:,.1f} s")
        if at.rejected:
            print_message(f"{counted(at.rejected, 'bad line')}: {bad} lists the faults{first and f'; {first}'}")
    if not done:
        print_message("interrupted; --resume continues" if plain else "interrupted")
        raise typer.Exit(130)
    if at.rejected and (strict or not at.imported):
        raise typer.Exit(1)


def rules_of(settings: Settings, app: str) -> Rules:
    """Return the rules that validate the devices of the app, here and in the API."""
    from ...api.rules import Rules
    from ...runtime.providers import addresses

    return Rules(app, frozenset(map(platform_of, settings.apps[app].accounts)), addresses())


async def _import(
    context: typer.Context,
    app: str,
    url: str,
    key: str,
    file: str,
    form: Format,
    rejects: Path,
    *,
    plain: bool,
    resume: bool,
    quiet: bool,
) -> tuple[FilePosition, bool, str]:
    """Return the position that was reached, whether it is the end of the file, and the first fault that was found."""
    from ...runtime.providers import addresses

    stop = until_signalled(hang_up=True)
    async with open_operator(context, app, url, key, changes=True) as operator:
        with ExitStack() as stack:
            stream = stack.enter_context(reading(file))
            identity = identify(stream) if plain else None
            notes = Notes(Path(f"{file}.position") if plain else None)
            new = FilePosition(app, identity or FileIdentity(0, 0, ""))
            start = notes.read(app, identity) if resume and identity else new
            bad = stack.enter_context(Rejects(rejects, kept=start.rejected if start.records else None))
            size = identity.size if identity else None
            show = stack.enter_context(progress(size, start=start.imported, quiet=quiet))
            async with operator.importing(app) as write:
                importer = Importer(write, start, bad, notes)
                done = await importer.run(
                    entries(stream, form, addresses()),
                    stop.is_set,
                    lambda at: show(stream.tell() if size else 0, at.imported),
                )
            if done:
                notes.remove()
            return importer.at, done, bad.first


def identify(stream: BinaryIO) -> FileIdentity:
    """Return the identity of a regular file. Rewinds `stream` to its start."""
    status = os.fstat(stream.fileno())
    head = hashlib.sha256(stream.read(HEAD)).hexdigest()
    stream.seek(0)
    return FileIdentity(status.st_size, status.st_mtime_ns, head)


class Importer:
    """Writes the records of a file to the registry in batches."""

    def __init__(
        self,
        write: Callable[[Sequence[Any]], Awaitable[Sequence[Taken]]],
        start: FilePosition,
        rejects: Rejects,
        notes: Notes,
    ) -> None:
        self._write = write
        self._rejects = rejects
        self._notes = notes
        self.at = start

    async def run(
        self, records: Iterator[FileRecord], stopping: Callable[[], bool], show: Callable[[FilePosition], None]
    ) -> bool:
        """Import `records` until the last one, or until `stopping()` is true.

        Returns whether the last one was reached.
        """
        for _ in range(self.at.records):
            if next(records, None) is None:
                break
        due = time.monotonic() + SAVE_EVERY
        while not stopping():
            batch = list(islice(records, MOST))
            new = await self._put(batch)
            at = self.at
            self.at = msgspec.structs.replace(
                at,
                records=at.records + len(batch),
                imported=at.imported + len(new),
                new=at.new + sum(new),
                rejected=self._rejects.count,
            )
            show(self.at)
            if not batch:
                return True
            if time.monotonic() >= due:
                self._save()
                due = time.monotonic() + SAVE_EVERY
        self._save()
        return False

    def _save(self) -> None:
        self._rejects.flush()
        self._notes.write(self.at)

    async def _put(self, batch: Sequence[FileRecord]) -> list[bool]:
        """Write what can be read, and return of each device that was written whether it is new."""
        taken = iter(await self._write([entry.value for entry in batch if entry.fault is None]))
        new: list[bool] = []
        for entry in batch:
            became = next(taken) if entry.fault is None else entry.fault.faults
            if isinstance(became, bool):
                new.append(became)
            else:
                self._rejects.add(entry, became)
        return new


class Rejects:
    """The file of invalid lines, which is kept only if there are any.

    Its lines are copies, and so may contain tokens.
    """

    def __init__(self, path: Path, *, kept: int | None) -> None:
        """Open the file. Keeps the first `kept` lines of the import that is resumed; the lines after them are written
        again. None: the import is a new one, and the lines of an earlier one move to another file."""
        self._path = path
        self._anew = kept is None
        self._stack = ExitStack()
        self.count = kept or 0
        self.first = ""
        """The faults of the first line that was added, as people read them."""

    def __enter__(self) -> Rejects:
        # Opened before anything is imported: where it cannot be written, that is reported at once.
        try:
            if self._anew:
                self._set_aside()
            self._file = self._stack.enter_context(open_private(self._path, keep=self._kept_bytes()))
        except FileFailed as error:
            raise FileFailed(f"{error}; --rejects names another place for bad lines") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        if not self.count and is_regular(self._path):
            with suppress(OSError):
                Path(os.path.realpath(self._path)).unlink(missing_ok=True)

    def _set_aside(self) -> None:
        """Move the lines of an earlier import, which may be the only copy of what came through a pipe. Raises
        `FileFailed`."""
        if not (is_regular(self._path) and self._path.exists() and self._path.stat().st_size):
            return
        found = Path(os.path.realpath(self._path))
        other = found.with_name(f"{found.name}.old")
        instead = ", in place of older ones" if other.exists() else ""
        try:
            found.replace(other)
        except OSError as error:
            raise FileFailed(f"{found} cannot be moved to {other.name}: {error.strerror}") from None
        print_message(f"the bad lines of an earlier import are in {other} now{instead}")

    def _kept_bytes(self) -> int:
        if not self.count or not is_regular(self._path) or not self._path.exists():
            return 0
        with reading(str(self._path)) as file:
            return sum(len(file.readline()) for _ in range(self.count))

    def add(self, entry: FileRecord, faults: Sequence[Fault]) -> None:
        if not self.first:
            named = "; ".join(f"{each.path}: {each.message}" for each in faults[:NAMED])
            more = f"; and {len(faults) - NAMED:,} more" if len(faults) > NAMED else ""
            self.first = scrub_text(f"line {entry.line}: {named}{more}")
        fault = {"line": entry.line, "errors": faults, "given": entry.text}
        self._file.write(msgspec.json.encode(fault) + b"\n")
        self.count += 1

    def flush(self) -> None:
        self._file.flush()


class Notes:
    """The stored position of an import. It exists only for a regular file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self, app: str, file: FileIdentity) -> FilePosition:
        """Return the position of the earlier run, or the start if there is none. Raises `FileFailed`."""
        assert self._path is not None
        try:
            at = msgspec.json.decode(self._path.read_bytes(), type=FilePosition)
        except FileNotFoundError:
            return FilePosition(app, file)
        except (OSError, msgspec.MsgspecError) as error:
            raise FileFailed(f"{self._path} cannot be read ({type(error).__name__}): {ANEW}") from None
        if (at.app, at.file) != (app, file):
            raise FileFailed(f"{self._path} is of another app or another version of the file: {ANEW}")
        return at

    def write(self, at: FilePosition) -> None:
        if self._path is None:
            return
        try:
            write_whole(self._path, msgspec.json.encode(at))
        except FileFailed as error:
            print_message(f"{error}; this import goes on, but cannot be resumed")
            self._path = None

    def remove(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
