"""A listener that has paused accepts again, whatever the first attempts meet."""

from __future__ import annotations

import asyncio
import errno

import pytest

from pushsvc.live.sockets import listener as module
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live.sockets.listener import listen


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "Too many open files"), ZeroDivisionError()], ids=repr)
async def test_it_accepts_again_after_an_attempt_that_failed(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.01)
    faults, room = [fault], False
    listener = await listen(SocketsConfig(host="127.0.0.1", port=0), asyncio.Protocol, lambda: room)
    resume = listener.resume

    async def failing() -> None:
        if faults:
            raise faults.pop()
        await resume()

    async def until(paused: bool) -> None:
        while listener.paused != paused:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(listener, "resume", failing)
    async with asyncio.timeout(30):
        _, writer = await asyncio.open_connection(*listener.address)
        await until(True)
        room = True
        await until(False)
    assert not faults
    writer.close()
    listener.close()
