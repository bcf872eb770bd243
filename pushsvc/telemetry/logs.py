"""The configuration of all logs: JSON lines when piped, readable text at a terminal, always on stderr.

Standard output carries the data of a command. The standard library's loggers (aiohttp, asyncio, rq, google) use the
same processors, so that all logs have one format.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Final, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from ..errors import ConfigError
from ..redaction import scrub_named
from .traces import CURRENT


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask values whose name suggests a secret, and parts of texts that look like one. A structlog processor."""
    for name, value in event.items():
        event[name] = scrub_named(name, value)
    return event


class _Lines:
    """Writes each entry as one line in one call. A log that cannot be written is dropped: it must not stop a push."""

    __slots__ = ("_stream", "name")

    def __init__(self, stream: TextIO | None, name: str = "") -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(line + "\n")
            stream.flush()
        except (OSError, ValueError):
            # The terminal has gone, the disk is full, the stream is closed.
            pass

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


class _Handler(logging.Handler):
    """Passes records of the standard library's loggers through the same processors."""

    def __init__(self, lines: _Lines, processors: Iterable[Processor]) -> None:
        super().__init__()
        self._lines = lines
        self._processors = tuple(processors)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: Any = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            method = record.levelname.lower()
            for process in self._processors:
                event = process(self._lines, method, event)
            self._lines.msg(cast(str, event))
        except Exception:
            self.handleError(record)


def _add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if name := getattr(logger, "name", ""):
        event.setdefault("logger", name)
    return event


def _add_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if current := CURRENT.get():
        event.setdefault("trace_id", current[:16].hex())
    return event


def _to_json(event: object, **_: object) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=repr).decode()
    except (ValueError, OverflowError, msgspec.MsgspecError):
        # Half a surrogate pair, say: the standard library escapes what UTF-8 has no bytes for.
        return json.dumps(event, default=repr)


_Logger: Final = cast(
    type[FilteringBoundLogger], type("_Logger", (structlog.make_filtering_bound_logger(logging.DEBUG),), {})
)
"""The class of all loggers. A logger is kept once it has written, so that its class has the methods of the level."""
LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def configure_logging(level: str = "info", stream: TextIO | None = None, json: bool | None = None) -> None:
    """Route structlog and the standard library's loggers to `stream` (None: stderr, as it is at each line).

    `json` None means: JSON lines unless the stream is a terminal. A call of a level below `level` costs a method
    call that does nothing. May be called again; loggers that have written keep the configuration they began with,
    except for the level.
    """
    set_level(level)
    target = stream or sys.stderr
    as_json = not target.isatty() if json is None else json
    lines = _Lines(stream)
    render: list[Processor]
    if as_json:
        render = [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(_to_json)]
    else:
        render = [
            # Text first, so that what a traceback quotes is masked like everything else.
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=target.isatty() and "NO_COLOR" not in os.environ),
        ]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_name,
        _add_trace,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        *render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=_Logger,
        logger_factory=lambda name="": _Lines(stream, name),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    root.addHandler(_Handler(lines, processors))
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Make this the level of every logger, also of those that have written."""
    if level not in LEVELS:
        raise ConfigError("logging.level", f"unknown level {level!r}", f"one of {', '.join(LEVELS)}")
    number = int(getattr(logging, level.upper()))
    for name, method in vars(structlog.make_filtering_bound_logger(number)).items():
        if callable(method) and not name.startswith("__"):
            setattr(_Logger, name, method)
    logging.getLogger().setLevel(number)
    # Libraries that report each request in their debug or info logs: at this volume that is noise, and it quotes URLs.
    for chatty in ("aiohttp.access", "urllib3", "google", "requests", "hpack", "h2", "markdown_it", "rq.worker"):
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that adds its name to each event. It reads the configuration at its first event, not here."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def unforeseen(error: BaseException) -> dict[str, str]:
    """Return, for the log, the type of an unexpected error and the places that it passed, without its text, which may
    quote secrets or contents."""
    return {"error": type(error).__name__, "where": "".join(traceback.format_tb(error.__traceback__)[-4:])}
