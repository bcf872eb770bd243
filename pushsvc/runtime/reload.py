"""The configuration while it changes: each new version that can be read, and which files it stands on.

A version comes when SIGHUP asks for it, or when the configuration file or a credential file has changed; a look at
their times each second needs no more than the standard library and also sees files that are replaced, mounted anew or
come back. What cannot be read is logged, once, and the version of before stays.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct, structs

from ..errors import ConfigError
from ..settings import Settings
from ..telemetry import RELOAD_SUCCESSFUL, RELOAD_TIMESTAMP, get_logger

EVERY = 1.0
"""Seconds between two looks at the files."""

Stamp: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""Of each file its path, when it was changed, its size, its inode and who may read it; -1 where there is none."""


def stamp_of(files: list[Path]) -> Stamp:
    """How these files are now."""
    found = []
    for file in files:
        try:
            status = os.stat(file)
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode))
        except OSError:
            found.append((str(file), -1, -1, -1, -1))
    return tuple(found)


def files_of(section: Struct) -> list[Path]:
    """The files that one section names, as an account its credentials: its keys that end in `_file`."""
    values = structs.asdict(section)
    return [Path(value) for key, value in sorted(values.items()) if key.endswith("_file") and value]


def all_files(settings: Settings) -> list[Path]:
    """The configuration file and every file that its apps name."""
    own = [settings.file] if settings.file else []
    sections = [section for app in settings.apps.values() for section in (*app.providers.values(), app.webhook)]
    return own + [file for section in sections for file in files_of(section)]


async def versions(
    settings: Settings,
    load: Callable[[], Settings],
    stop: asyncio.Event,
    *,
    every: float = EVERY,
) -> AsyncIterator[Settings]:
    """Each later version of the configuration until `stop`, SIGHUP or a changed file being the occasion.

    Only `apps`, `feedback`, `queue.max_pending` and `queue.app_share` can change under a running process; for the rest
    the log asks for a restart.
    """
    log = get_logger("reload")
    _note(accepted=True)
    # The files may have changed between being read at the start and this first look, and a SIGHUP may have come before
    # anybody listened: so it is taken at once, and counts as a change, quietly.
    first = settings.file is not None
    started = settings
    seen = stamp_of(all_files(settings))
    with _hang_ups() as asked:
        while not await _wait(stop, asked, 0.0 if first else every):
            now = stamp_of(all_files(settings))
            if now == seen and not asked.is_set() and not first:
                continue
            quiet, first = first and now == seen and not asked.is_set(), False
            asked.clear()
            seen = now
            try:
                newer = load()
                newer.require_apps()
            except ConfigError as error:
                log.error("reload_refused", error=str(error), running="the previous configuration")
                _note(accepted=False)
                continue
            _note(accepted=True, unapplied=_fixed(started, newer))
            quiet = quiet and newer == settings
            if (fixed := _fixed(settings, newer)) and not quiet:
                log.warning("reload_needs_restart", sections=fixed)
            settings = newer
            # The new version may stand on other files.
            seen = stamp_of(all_files(settings))
            if not quiet:
                log.info("reloaded", apps=sorted(settings.apps))
            yield settings


_refused_at: float | None = None
"""When the configuration on disk was refused, Unix seconds; None: it is the one that runs."""
_unapplied: list[str] = []


def refused_since() -> float | None:
    """Since when this process goes on with an older configuration than that on disk, Unix seconds, or None."""
    return _refused_at


def unapplied() -> list[str]:
    """Return the sections that have changed on disk since this process began, and that only a restart applies."""
    return _unapplied


def _note(*, accepted: bool, unapplied: list[str] | None = None) -> None:
    global _refused_at, _unapplied  # of the process, as its metrics are
    if unapplied is not None:
        _unapplied = unapplied
    now = time.time()
    _refused_at = None if accepted else (_refused_at or now)
    RELOAD_SUCCESSFUL.set(accepted)
    if accepted:
        RELOAD_TIMESTAMP.set(now)


def _fixed(old: Settings, new: Settings) -> list[str]:
    """Sections that differ and are read at the start only."""
    names = [name for name in Settings.__struct_fields__ if name not in ("apps", "feedback", "file")]
    queue = structs.replace(new.queue, max_pending=old.queue.max_pending, app_share=old.queue.app_share)
    new = structs.replace(new, queue=queue)
    return [name for name in names if getattr(old, name) != getattr(new, name)]


async def _wait(stop: asyncio.Event, asked: asyncio.Event, seconds: float) -> bool:
    """Until something is to be looked at; True when it is time to stop."""
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, asked)]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
    return stop.is_set()


_listeners: set[asyncio.Event] = set()
"""Several parts may live in one process, as in tests: SIGHUP is for each of them."""
_hearing = ExitStack()
"""Open while there are listeners."""


def ask_all() -> None:
    """Let everybody who follows the configuration look at it now. In their own loop: events know no threads."""
    for asked in _listeners:
        asked.set()


@contextmanager
def on_hang_up(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the running loop at each SIGHUP while the block lasts; afterwards SIGHUP does what it did before.

    Outside the main thread there are no signals, and nothing happens.
    """
    loop = asyncio.get_running_loop()
    try:
        before = signal.getsignal(signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, act)
    except (ValueError, RuntimeError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        with suppress(ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGHUP)
            # The loop leaves the default, by which a process that drains would be killed.
            signal.signal(signal.SIGHUP, before)


@contextmanager
def _hang_ups() -> Iterator[asyncio.Event]:
    asked = asyncio.Event()
    if not _listeners:
        _hearing.enter_context(on_hang_up(ask_all))
    _listeners.add(asked)
    try:
        yield asked
    finally:
        _listeners.discard(asked)
        if not _listeners:
            _hearing.close()
