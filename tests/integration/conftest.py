"""Fixtures of several modules. A module that needs another kind of server has a fixture `server` of its own, and one
that needs fewer backends a list `BACKENDS`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pushsvc.api.http.connections import Connection
from pushsvc.store import Store

from .harness import Service as WholeService, running_service
from .processes import Processes, Site, open_site, own_processes
from .servers import Server
from .test_cli_commands import Shell, serving
from .test_intake_kit import Service, running
from .test_store_kit import BACKENDS, World, backend_server, moment, new_store, new_world


def pytest_runtest_setup() -> None:
    """Let each test have an instant of its own."""
    moment.cache_clear()


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


@pytest.fixture
async def world(server: Server | None) -> AsyncIterator[World]:
    """A world on the backend of the test, empty at its beginning."""
    async with new_world(server) as world:
        yield world


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    """A store on the server of the test, empty at its beginning."""
    async with new_store(server) as store:
        yield store


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The API of a service without Redis."""
    async with running() as service:
        yield service


@pytest.fixture(scope="module")
async def service_of_module(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WholeService]:
    async with running_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
def whole_service(service_of_module: WholeService) -> WholeService:
    """The one service of its module, with all its parts and an empty record of its providers."""
    service_of_module.simulator.clear()
    return service_of_module


@pytest.fixture
async def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shell]:
    """A shell beside a service that the environment points at."""
    async with serving(tmp_path, capsys, monkeypatch) as shell:
        yield shell


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with own_processes(tmp_path) as own:
        yield own


@pytest.fixture
def site(tmp_path: Path, processes: Processes) -> Iterator[Site]:
    with open_site(tmp_path) as own:
        yield own


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
