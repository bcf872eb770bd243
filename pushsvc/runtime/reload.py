"""Follows the configuration while the process runs: each new valid version, and the files that it depends on. One task
does so for all parts of a process.

A new version is loaded on SIGHUP, or when the configuration file, a credential file or the file of a value has changed.
The files' times are polled each second, which needs only the standard library and also notices files that are replaced,
mounted again or come back. A version that cannot be read is logged once, also where several processes of one supervisor
follow it, and the previous one stays in use.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from msgspec import Struct, structs

from ..background import in_background, until_pulse
from ..errors import ConfigError
from ..settings.live import AppLive
from ..settings.schema import Settings
from ..store import StoreConfig
from ..telemetry import (
    RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP,
    begin_apps,
    claim,
    get_logger,
    set_level,
    systemd,
    unforeseen,
)
from .configuration import load_settings

EVERY = 1.0
"""Seconds between two checks of the files."""
LONGEST: Final = 400
"""Characters of a refusal that are reported; the log has all of it."""

Stamp: TypeAlias = tuple[tuple[str, int, int, int, int], ...]
"""For each file its path, modification time, size, inode and mode; -1 where there is no file."""


def stamp_of(files: list[Path]) -> Stamp:
    """Return the present state of these files."""
    found = []
    for file in files:
        try:
            status = os.stat(file)
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode))
        except OSError:
            found.append((str(file), -1, -1, -1, -1))
    return tuple(found)


def files_of(section: Struct) -> list[Path]:
    """Return the files that a section names, such as credentials of an account: its keys that end in `_file`."""
    values = structs.asdict(section)
    return [Path(value) for key, value in sorted(values.items()) if key.endswith("_file") and value]


def all_files(settings: Settings) -> list[Path]:
    """Return the configuration file, and every file that its apps, or variables for its values, name."""
    own = [*([settings.file] if settings.file else []), *settings.value_files]
    tls = [Path(file) for file in (settings.live.tls_cert, settings.live.tls_key) if file]
    sections = [section for app in settings.apps.values() for section in (*app.accounts.values(), app.webhook)]
    return own + tls + [file for section in sections for file in files_of(section)]


class Current:
    """The configuration that this process uses now, and whether it is the one on disk."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.applied_at: int | None = None
        """When the configuration in use was read, in Unix ms; None before it is followed."""
        self.refused_since: int | None = None
        """When the configuration on disk was refused, in Unix ms; None while that is in use."""
        self.refusal = ""
        """Why it was refused, in one line."""
        self.unapplied: list[str] = []
        """The sections that have changed on disk since the start and that only a restart applies."""
        begin_apps(settings.apps)
        self._news: list[asyncio.Event] = []

    def news(self) -> asyncio.Event:
        """Return an event that is set at each change from now on. Each part of the process has its own, and clears
        it."""
        self._news.append(asyncio.Event())
        return self._news[-1]

    def use(self, newer: Settings) -> None:
        self.settings = newer
        begin_apps(newer.apps)
        for each in self._news:
            each.set()

    def note(self, refusal: str = "") -> None:
        """Note that the configuration on disk was accepted, or why it was refused."""
        now = time.time()
        line = "; ".join(part.strip() for part in refusal.splitlines())
        self.refusal = line if len(line) <= LONGEST else f"{line[:LONGEST]}.."
        self.refused_since = (self.refused_since or int(now * 1000)) if refusal else None
        RELOAD_SUCCESSFUL.set(not refusal)
        if not refusal:
            self.applied_at = int(now * 1000)
            RELOAD_TIMESTAMP.set(now)


@asynccontextmanager
async def following(
    current: Current, stop: asyncio.Event, *, check: Callable[[Settings], object] = lambda newer: None
) -> AsyncIterator[None]:
    """Have `current` follow the configuration while the block lasts, until `stop`, for all parts of the process.
    Versions for which `check` raises `ConfigError` are refused."""
    load = partial(load_settings, current.settings.file)

    async def follow() -> None:
        async for newer in versions(current, load, stop, check=check):
            current.use(newer)

    async with in_background(follow(), "reload"):
        yield


@asynccontextmanager
async def applying(current: Current, news: asyncio.Event, change: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call `change` while the block lasts whenever `current` has `news` for a part: once for all that come during a
    call. So a part that takes long to change, as until requests in flight have ended, holds up no other. A change that
    fails is logged and noted, and the next one is applied."""

    async def apply() -> None:
        while await news.wait():
            news.clear()
            try:
                await change()
            except Exception as error:
                get_logger("reload").error("reload_failed", **unforeseen(error))
                current.note(f"it is applied in part: an unexpected {type(error).__name__}; `reload_failed` in the log")

    async with in_background(apply(), "apply"):
        yield


async def versions(
    current: Current,
    load: Callable[[], Settings],
    stop: asyncio.Event,
    *,
    every: float = EVERY,
    check: Callable[[Settings], object] = lambda newer: None,
) -> AsyncIterator[Settings]:
    """Yield each later version of the configuration until `stop`, loaded on SIGHUP or when a file changes. Only `apps`
    (without `live.history` and `live.history_age`), `feedback`, `queue.max_pending`, `queue.app_share`, `live.deny`,
    `live.endpoints` and `logging.level` can change in a running process; for all else the log asks for a restart.
    `check` raises `ConfigError` for a version that this process cannot use, which is refused like one that cannot be
    read. `current` notes what becomes of each."""
    log, settings = get_logger("reload"), current.settings
    current.note()
    # The files may have changed between being read at the start and this first check, and a SIGHUP may have come
    # before the handler was installed: so the first check reloads at once, without a log line where nothing differs.
    started = watched = settings
    seen = stamp_of(all_files(watched))
    first = bool(seen)
    with _hang_ups() as asked:
        while not await _wait(stop, asked, 0.0 if first else every):
            now = stamp_of(all_files(watched))
            if now == seen and not asked.is_set() and not first:
                continue
            was_asked = asked.is_set()
            quiet, first = first and now == seen and not was_asked, False
            asked.clear()
            seen = now
            try:
                with systemd.reload_notified():
                    newer, seen = _loaded(load, now)
                    watched = newer
                    newer.require_apps()
                    check(newer)
            except Exception as error:
                why = {"error": str(error)} if isinstance(error, ConfigError) else unforeseen(error)
                if is_news(why["error"], seen) or was_asked:
                    log.error("reload_refused", **why, running="the previous configuration")
                current.note(why["error"])
                continue
            current.note()
            current.unapplied = _fixed(started, newer)
            quiet = quiet and newer == settings
            if (fixed := _fixed(settings, newer)) and not quiet:
                log.warning("reload_needs_restart", sections=fixed)
            if newer.logging.level != settings.logging.level:
                set_level(newer.logging.level)
            settings = newer
            if not quiet:
                log.info("reloaded", apps=sorted(settings.apps))
            yield settings


def _loaded(load: Callable[[], Settings], seen: Stamp) -> tuple[Settings, Stamp]:
    """Load, and return with it the state that each of its files had before it was read, so that a change during the
    loading is noticed. Where it depends on files that `seen` does not have, it is loaded once more after these."""
    known = {each[0]: each for each in seen}
    while True:
        newer = load()
        files = all_files(newer)
        if known.keys() >= set(map(str, files)):
            return newer, tuple(known[str(file)] for file in files)
        known = {each[0]: each for each in stamp_of(files)}


_logged = ""
"""The digest of the refusal that was logged last by this process, or by another one for it."""


def is_news(refusal: str, files: Stamp) -> bool:
    """Return whether nothing has logged yet that these files were refused for this reason: no other part of this
    process, and no other process of its supervisor."""
    global _logged  # for all parts of the process
    name = hashlib.sha256(f"{files} {refusal}".encode()).hexdigest()[:32]
    if name == _logged:
        return False
    _logged = name
    return claim(name)


def _fixed(old: Settings, new: Settings) -> list[str]:
    """Return the sections that differ, also in part, and are read only at the start."""
    names = [name for name in Settings.__struct_fields__ if name not in ("apps", "feedback", "file", "value_files")]
    queue = structs.replace(new.queue, max_pending=old.queue.max_pending, app_share=old.queue.app_share)
    live = structs.replace(new.live, deny=old.live.deny, endpoints=old.live.endpoints)
    logging = structs.replace(new.logging, level=old.logging.level)
    new = structs.replace(new, queue=queue, live=live, logging=logging)
    found = [name for name in names if getattr(old, name) != getattr(new, name)]
    kept = {name: _kept(app.live) for name, app in old.apps.items() if app.live}
    return found + [
        f"apps.{name}.live" for name, app in new.apps.items() if app.live and _kept(app.live) != kept.get(name, _UNREAD)
    ]


def _kept(live: AppLive) -> tuple[int, int]:
    """Return the limits of a live channel that the store reads when it is opened."""
    return live.history, live.history_age


_UNREAD: Final = (StoreConfig().history, StoreConfig().history_age)
"""The limits of an app that was added after the store was opened."""


async def _wait(stop: asyncio.Event, asked: asyncio.Event, seconds: float) -> bool:
    """Wait until the files must be checked. Returns True when the process is to stop."""
    waiting = [asyncio.ensure_future(event.wait()) for event in (stop, asked)]
    try:
        timeout = until_pulse(seconds) if seconds else 0.0
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
    return stop.is_set()


_listeners: set[asyncio.Event] = set()
"""The events to set on SIGHUP: several parts may run in one process, as in tests."""
_hearing = ExitStack()
"""Open while there are listeners."""


def ask_all() -> None:
    """Request a check from every follower of the configuration. Call it in their event loop, since events are not
    thread-safe."""
    for asked in _listeners:
        asked.set()


@contextmanager
def on_hang_up(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` in the running loop at each SIGHUP while the block lasts, and then restore its handler. Outside
    the main thread signals cannot be handled, and nothing happens."""
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
            # The loop leaves the default handler, by which a draining process would be killed.
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
