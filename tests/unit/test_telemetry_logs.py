"""Logs: one form for all that speak, on stderr, cheap where nothing is written."""

from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import UTC, datetime

import pytest

from pushsvc.errors import ConfigError
from pushsvc.telemetry import configure_logging, get_logger, set_level
from pushsvc.telemetry.traces import CURRENT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def entries(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_when_piped() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    get_logger("dispatch").info("sent", app="shop", count=3)
    logging.getLogger("asyncio").warning("slow %s", "task")
    mine, theirs = entries(stream)
    reported = datetime.fromisoformat(str(mine.pop("timestamp")))
    assert reported.tzinfo == UTC
    assert abs((datetime.now(UTC) - reported).total_seconds()) < 60
    assert mine == {"event": "sent", "app": "shop", "count": 3, "level": "info", "logger": "dispatch"}
    del theirs["timestamp"]
    assert theirs == {"event": "slow task", "level": "warning", "logger": "asyncio"}


def test_lines_name_the_trace_of_their_task() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    before = CURRENT.set(bytes(range(24)))
    get_logger("intake").info("within")
    logging.getLogger("asyncio").warning("within")
    CURRENT.reset(before)
    get_logger("intake").info("after")
    trace = bytes(range(16)).hex()
    assert [line.get("trace_id") for line in entries(stream)] == [trace, trace, None]


def test_readable_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    configure_logging("info", stream)
    get_logger("dispatch").info("sent", app="shop")
    assert "\x1b[" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    configure_logging("info", plain)
    get_logger("dispatch").info("sent", app="shop")
    assert "\x1b[" not in plain.getvalue()
    assert "app=shop" in plain.getvalue()
    assert not plain.getvalue().startswith("{")


def test_the_form_can_be_chosen() -> None:
    stream = Terminal()
    configure_logging("info", stream, json=True)
    get_logger("x").info("a")
    assert entries(stream)[0]["event"] == "a"


def test_levels_below_are_dropped_without_work() -> None:
    class Explodes:
        def __repr__(self) -> str:
            raise AssertionError("rendered")

        __str__ = __repr__

    stream = io.StringIO()
    configure_logging("warning", stream)
    log = get_logger("x")
    log.debug("a", value=Explodes())
    log.info("b", value=Explodes())
    logging.getLogger("aiohttp").info("c %s", Explodes())
    log.warning("d")
    assert [entry["event"] for entry in entries(stream)] == ["d"]


def test_the_level_of_a_logger_that_has_written_can_change() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    own, bound, theirs = get_logger("a"), get_logger("b").bind(app="shop"), logging.getLogger("c")
    for level in ("info", "debug", "warning"):
        set_level(level)
        for log in (own, bound, theirs):
            log.debug("debug")
            log.info("info")
            log.warning("warning")
    set_level("info")
    events = [str(entry["event"]) for entry in entries(stream)]
    assert events == ["info", "warning"] * 3 + ["debug", "info", "warning"] * 3 + ["warning"] * 3


def test_libraries_that_chatter_are_kept_to_warnings() -> None:
    stream = io.StringIO()
    configure_logging("debug", stream)
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("urllib3.connectionpool").debug("POST /token")
    logging.getLogger("aiohttp.access").warning("kept")
    assert [entry["event"] for entry in entries(stream)] == ["kept"]


def test_python_warnings_are_logged() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging("info", stream)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old" in str(entries(stream)[0]["event"])


def test_an_exception_is_in_the_entry() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    try:
        raise KeyError("gone")
    except KeyError:
        get_logger("x").exception("failed")
        logging.getLogger("rq").exception("failed too")
    for entry in entries(stream):
        assert "KeyError: 'gone'" in str(entry["exception"])
        assert "exc_info" not in entry


def test_what_json_cannot_say_is_given_by_its_repr() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    get_logger("x").info("odd", value=object, text="\ud800", nan=float("nan"), big=2**70)
    assert len(entries(stream)) == 1


def test_a_closed_stream_stops_nothing() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    log = get_logger("x")
    log.info("a")
    stream.close()
    log.info("b")
    logging.getLogger("y").warning("c")
    assert stream.closed


def test_configuring_twice_does_not_log_twice() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", first)
    configure_logging("info", second)
    logging.getLogger("y").warning("once")
    assert first.getvalue() == ""
    assert len(entries(second)) == 1


def test_stderr_is_looked_up_at_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    get_logger("x").info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "hello"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of debug, info, warning, error, critical"):
        configure_logging("loud")
