"""What all tests share: how hypothesis searches, signals that processes heed, the event loop of tests and fixtures that
are coroutines, and logging that no test leaves changed.

In CI the search takes the same examples each time, so that a red build is red again; at a desk it goes on looking.
No deadlines: a slow machine is not a fault in the code.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings

from pushsvc.telemetry import REDIS

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# A shell starts what it puts into the background with SIGINT ignored, nohup with SIGHUP ignored, and a process hands
# that on to all it starts: those here would not hear the Ctrl-C that a test sends. Only what is ignored is changed.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Do not cache loggers at their first use: they would keep that configuration in other tests."""
    config.pluginmanager.register(_FailuresAtOnce(config))
    configure = structlog.configure
    pytest.MonkeyPatch().setattr(
        structlog, "configure", lambda **how: configure(**{**how, "cache_logger_on_first_use": False})
    )


class _FailuresAtOnce:
    """Prints each failure at once, so that a killed run has printed those before."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._plugins.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.write_line(f"\n{report.nodeid}: {report.when} failed\n{report.longreprtext}")


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run tests and fixtures that are coroutines, each test in a loop of its own, made by `LOOP` of the module."""
    return "asyncio", {"loop_factory": getattr(request.module, "LOOP", None)}


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key of the configuration comes from the environment of the user who runs the tests."""
    for name in [name for name in os.environ if name.startswith("PUSHSVC")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command configures logging for its process; the next test begins as if none had."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    REDIS.reset()
    logging.captureWarnings(False)
    structlog.reset_defaults()
