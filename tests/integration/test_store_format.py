"""A store of another format is refused before anything of it is changed, with what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pushsvc.errors import StoreFormat
from pushsvc.store import keys, open_store
from pushsvc.store.form import FORMAT, judge_format
from pushsvc.store.link.link import Link

from .ports import free_ports
from .processes import own_processes
from .servers import KINDS, Server, running_server

CONFIG = """
[server]
port = {port}
[live]
port = {live_port}
[metrics]
port = 0
[apps.shop.live]
secret = "0123456789abcdef0123456789abcdef"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(KINDS[0]) as running:
        yield running


def calls(server: Server, *commands: tuple[Any, ...]) -> list[Any]:
    async def story() -> list[Any]:
        link = Link(server.url, name="other", timeout=5.0)
        try:
            return [await link.call(*command) for command in commands]
        finally:
            await link.aclose()

    return asyncio.run(story())


async def opened(server: Server) -> None:
    async with open_store(server.url):
        pass


def test_a_store_is_marked_once_and_a_newer_one_is_refused_untouched(server: Server, tmp_path: Path) -> None:
    calls(server, ("FLUSHALL",))
    asyncio.run(opened(server))
    asyncio.run(opened(server))
    assert calls(server, ("GET", keys.FORMAT)) == [str(FORMAT).encode()]

    calls(server, ("FLUSHALL",), ("SET", keys.FORMAT, FORMAT + 1))
    with pytest.raises(StoreFormat, match="run the newer version that wrote it"):
        asyncio.run(opened(server))
    config = tmp_path / "pushsvc.toml"
    port = free_ports(2)
    config.write_text(CONFIG.format(port=port, live_port=port + 1))
    environ = {"PUSHSVC_CONFIG": str(config), "PUSHSVC__REDIS__URL": server.url}
    with own_processes(tmp_path) as processes:
        for words in (("up",), ("dispatch", "--processes", "2"), ("check",)):
            code, out, err = processes.run(*words, **environ)
            said = out + err
            assert code == 1, said
            assert f"the store has format {FORMAT + 1}, and this version of pushsvc reads format {FORMAT} alone" in said
            assert "or restore a backup from before the upgrade" in said
    assert calls(server, ("KEYS", "*")) == [[keys.FORMAT.encode()]]


@pytest.mark.parametrize(
    ("stored", "remedy"),
    [
        (str(FORMAT).encode(), None),
        (str(FORMAT + 1).encode(), "newer version"),
        (str(FORMAT - 1).encode(), "versions in between"),
        (b"v2", "Redis of pushsvc"),
        (b"\xff", "Redis of pushsvc"),
        (b"", "Redis of pushsvc"),
        (None, "Redis of pushsvc"),  # it was removed between two reads
    ],
)
def test_each_format_has_its_answer(stored: bytes | None, remedy: str | None) -> None:
    fault = judge_format(stored)
    assert (fault is None) == (remedy is None)
    assert fault is None or (remedy and remedy in fault.fix)
