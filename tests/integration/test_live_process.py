"""`pushsvc up` with a live channel as real processes: a device connects, receives, acknowledges, and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pushsvc import runtime
from pushsvc.api import new_push_id
from pushsvc.live.protocol.codes import SHUTDOWN
from pushsvc.live.protocol.tokens import issue
from pushsvc.model.devices import Device
from pushsvc.ports.live import LivePush, Receiver, pokes_of
from pushsvc.ports.store import Store
from pushsvc.settings import Settings

from .harness import KEY
from .ports import free_ports
from .processes import Api, Processes, own_processes, until
from .test_live_gateway import HOUR_MS, Phone
from .test_parts import read, total
from .test_store_kit import make_push

SECRET = "of the app, which nobody else knows"
CONFIG = """
[server]
port = {port}
[store]
data_dir = "{folder}/store"
[metrics]
port = 0
[live]
port = {live}
drain = 2.0
[dispatch]
takeover = 3.0
drain_timeout = 1.0
[apps.shop]
[[apps.shop.keys]]
name = "test"
sha256 = "{sha256}"
scopes = ["push", "devices", "admin"]
[apps.shop.live]
secret = "{secret}"
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with own_processes(tmp_path) as own:
        yield own


class Shop:
    """A service with one app, which has a live channel and no provider."""

    def __init__(self, folder: Path) -> None:
        self.port, live = free_ports(), free_ports()
        self.file = folder / "pushsvc.toml"
        sha256 = hashlib.sha256(KEY.encode()).hexdigest()
        self.file.write_text(CONFIG.format(folder=folder, port=self.port, live=live, sha256=sha256, secret=SECRET))
        self.api = Api(f"http://127.0.0.1:{self.port}", KEY)
        self.url = f"http://127.0.0.1:{live}"
        self.environ = {"PUSHSVC_CONFIG": str(self.file)}

    def settings(self) -> Settings:
        return runtime.load_settings(self.file, {})

    def token(self, device: str, *, ttl: float = 3600.0) -> str:
        return issue("shop", device, SECRET, now=time.time(), ttl=ttl, token_id="t")

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        async with runtime.open_running_store(self.settings()) as store:
            yield store

    async def register(self, store: Store, *names: str) -> None:
        devices = [Device(id=n, platform="fcm", token=n, user="ann", registered_at=1, last_seen_at=1) for n in names]
        await store.registry.put_many("shop", devices)

    async def push(self, store: Store, device: str) -> str:
        """Append a push to the stream of a device, as the dispatcher does."""
        now = int(time.time() * 1000)
        push = LivePush(new_push_id(now), now, now + HOUR_MS, "normal", 1)
        await store.pushes.accept(make_push(push.id, 1, created_at=now))
        await store.live.keep("shop", push, msgspec.json.encode({"id": push.id}))
        appended = await store.live.append("shop", push, [Receiver(device, 0)], platform="fcm")
        await store.live.poke(pokes_of("shop", push, [Receiver(device, 0)], appended))
        return push.id


def test_a_device_is_served_through_kills_and_told_of_the_end(tmp_path: Path, processes: Processes) -> None:
    shop = Shop(tmp_path)
    up = processes.start("up", **shop.environ)
    assert up.until(r"devices +(\S+)")[1] == shop.url.replace("http", "ws")
    assert shop.api.call("GET", "/readyz")[0] == 200

    def connections() -> float:
        return total(read(shop.port), "pushsvc_live_connections", app="shop", transport="websocket")

    async def story() -> None:
        phone = Phone(shop, "phone-1", protobuf=True)
        async with shop.store() as store:
            await shop.register(store, "phone-1", "phone-2")
            await phone.client.connect()
            await phone.until(lambda: bool(phone.connects))
            first = await shop.push(store, "phone-1")
            await phone.until(lambda: bool(phone.shown))
            assert await phone.call("ack", {"ack": phone.shown[0]["offset"]}) == {}
            counts = await asyncio.to_thread(shop.api.until_done, first)
            assert counts == {"total": 1, "sent": 1}
            await asyncio.to_thread(until, lambda: "the metric shows it", lambda: connections() == 1)

            os.kill(processes.find_one("live --processes 1"), signal.SIGKILL)
            second = await shop.push(store, "phone-1")
            await phone.until(lambda: len(phone.connects) == 2 and len(phone.shown) == 2)
            assert [each["id"] for each in phone.shown] == [first, second]
            assert phone.recoveries == [False, True]
            assert await phone.call("ack", {"ack": phone.shown[1]["offset"]}) == {}
            assert await asyncio.to_thread(shop.api.until_done, second) == {"total": 1, "sent": 1}

            silent = Phone(shop, "phone-2", protobuf=False)
            await silent.client.connect()
            await silent.until(lambda: bool(silent.connects))
        up.process.send_signal(signal.SIGTERM)
        for each in (phone, silent):
            await each.until(lambda each=each: each.breaks[-1] == SHUTDOWN.code)  # type: ignore[misc]  # bound at once
            await each.client.disconnect()
        assert await asyncio.to_thread(up.wait) == 0, up.output()

    asyncio.run(story())


def test_two_gateways_share_a_port_and_a_poll_is_answered_at_their_end(tmp_path: Path, processes: Processes) -> None:
    shop = Shop(tmp_path)
    live = processes.start("live", "--processes", "2", **shop.environ)
    until(lambda: f"both are ready: {live.output()}", lambda: live.output().count('"ready"') == 2)

    async def story() -> None:
        device = Api(shop.url, shop.token("phone-1"))
        async with shop.store() as store:
            await shop.register(store, "phone-1")
            workers = await store.workers.living()
            assert [(each.part, each.serves) for each in workers] == [("live", frozenset({"shop"}))] * 2
            assert len(await store.live.gateways("shop")) == 2
            unserved = await runtime.read_unserved(shop.settings(), store, workers)
            assert "live" not in unserved
            poll = asyncio.create_task(asyncio.to_thread(device.call, "GET", "/v1/live/poll?wait=50"))
            while not (await store.live.presence("shop", ["phone-1"]))[0].route:  # type: ignore[union-attr]  # registered
                await asyncio.sleep(0.01)
            live.process.send_signal(signal.SIGTERM)
            status, page = await poll
            assert (status, page["publications"]) == (200, [])
        assert await asyncio.to_thread(live.wait) == 0, live.output()

    asyncio.run(story())
