"""Fixtures of several modules. A module that needs another kind of server has a fixture `server` of its own, and one
that needs fewer backends a list `BACKENDS`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from pushsvc.api.http.connections import Connection

from .harness import Act, Play, running_service
from .servers import Server
from .test_store_kit import BACKENDS, backend_server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with the backends that their module names, or with all."""
    if "server" in metafunc.fixturenames and not hasattr(metafunc.module, "server"):
        own = getattr(metafunc.module, "BACKENDS", BACKENDS)
        metafunc.parametrize("server", own, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    """Run a backend: a real server, or None for the one in memory."""
    with backend_server(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """Run an act against the one service of its module, whose record is empty at the start of each act."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        service = runner.run(stack.enter_async_context(running_service(tmp_path_factory.mktemp("service"))))

        def run(act: Act) -> None:
            service.simulator.clear()
            runner.run(act(service))

        try:
            yield run
        finally:
            runner.run(stack.aclose())


@pytest.fixture(params=["whole", "parsed"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of the API are read in both ways: whole ones without aiohttp's parser, and all by it."""
    if request.param == "parsed":
        monkeypatch.setattr(Connection, "_take", lambda self, data: False)


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a client does, the server's own log holds no traceback."""
    with caplog.at_level(logging.INFO):
        yield
        records = caplog.get_records("call")  # `records` are those of the teardown by now
        assert [record for record in records if record.exc_info or record.levelno >= logging.WARNING] == []
