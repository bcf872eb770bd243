"""What all tests share: how hypothesis searches, and logging that no test leaves changed.

In CI the search takes the same examples each time, so that a red build is red again; at a desk it goes on looking.
No deadlines: a slow machine is not a fault in the code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


def pytest_configure() -> None:
    """No module's logger is kept at its first use: it would go on by the configuration of then, in other tests."""
    configure = structlog.configure
    pytest.MonkeyPatch().setattr(
        structlog, "configure", lambda **how: configure(**{**how, "cache_logger_on_first_use": False})
    )


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A command configures logging for its process; the next test begins as if none had."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
