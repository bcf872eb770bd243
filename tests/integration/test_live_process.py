"""`pushsvc up` with a live channel as real processes: a device connects, receives, acknowledges, and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pushsvc.live.protocol.codes import REVOKED, SHUTDOWN
from pushsvc.live.protocol.tokens import issue
from pushsvc.model.devices import Device
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.store import open_running_store

from .harness import KEY
from .ports import free_ports
from .processes import PATIENCE, Api, Processes, until
from .test_live_gateway import Phone
from .test_parts import read, total

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
nice = 7
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

    def token(self, device: str, *, ttl: float = 3600.0) -> str:
        status, answer = self.api.call("POST", f"/v1/devices/{device}/token", {"ttl": int(ttl)})
        assert status == 200, answer
        assert answer["endpoints"][0]["endpoint"] == self.url.replace("http", "ws") + "/connection/websocket"
        return str(answer["token"])

    def read(self, path: str) -> Any:
        status, answer = self.api.call("GET", path)
        assert status == 200, answer
        return answer

    def register(self, *names: str) -> None:
        for name in names:
            assert self.api.call("PUT", f"/v1/devices/{name}", {"platform": "live", "user": "ann"})[0] in (200, 201)

    def push(self, device: str) -> str:
        document = {"to": {"devices": [device]}, "notification": {"title": "hello"}}
        status, body = self.api.call("POST", "/v1/push", document)
        assert status == 202, body
        return str(body["id"])

    def until_sent(self, push: str) -> None:
        assert self.api.until_done(push) == {"total": 1, "sent": 1}


async def test_a_device_is_served_through_kills_and_informed_of_the_end(tmp_path: Path, processes: Processes) -> None:
    shop = Shop(tmp_path)
    up = processes.start("up", **shop.environ)
    assert up.until(r"devices +(\S+)")[1] == shop.url.replace("http", "ws")
    address = urlsplit(shop.url)
    socket.create_connection((address.hostname, address.port)).close()  # it listens by then
    assert shop.api.call("GET", "/readyz")[0] == 200

    def connections() -> float:
        return total(read(shop.port), "pushsvc_live_connections", app="shop", transport="websocket")

    def shows_it(push: str) -> None:
        """The API shows who is online, and what has become of a push."""
        assert shop.read("/v1/devices/phone-1").keys() >= {"online", "connected_at", "unacked"}
        presence = shop.read("/v1/users/ann/presence")
        assert [(each["id"], each["online"], each["unacked"]) for each in presence["items"]] == [
            ("phone-1", True, 0),
            ("phone-2", False, 0),
        ]
        assert shop.read("/v1/live")["connections"] == 1
        until(lambda: "it is counted", lambda: total(read(shop.port), "pushsvc_live_messages_total", result="acked"))
        metrics = read(shop.port)
        assert total(metrics, "pushsvc_deliveries_total", outcome="sent") == 1, "counted once, by the store"
        assert total(metrics, "pushsvc_live_messages_total", app="shop", result="acked") == 1
        assert total(metrics, "pushsvc_live_duplicates_total", app="shop") == 0
        status = shop.read(f"/v1/push/{push}")
        assert (status["live"], status["events"]["opened"]) == ({"acked": 1, "fallback": 0, "waiting": 0}, 1)
        (row,) = shop.read(f"/v1/push/{push}/deliveries")["items"]
        assert (row["outcome"], row["channel"]) == ("sent", "live")

    await asyncio.to_thread(shop.register, "phone-1", "phone-2")
    phone, other = Phone(shop, "phone-1", protobuf=True), Phone(shop, "phone-2", protobuf=False)
    phone.patience = other.patience = PATIENCE  # of a machine on which processes start slowly
    await phone.client.connect()
    await phone.until(lambda: bool(phone.connects))
    first = await asyncio.to_thread(shop.push, "phone-1")
    await phone.until(lambda: bool(phone.shown))
    assert await phone.call("ack", {"ack": phone.shown[0]["offset"]}) == {}
    await asyncio.to_thread(shop.until_sent, first)
    await asyncio.to_thread(until, lambda: "the metric shows it", lambda: connections() == 1)
    assert await phone.call("event", {"id": first, "event": "opened"}) == {"counted": True}
    await asyncio.to_thread(shows_it, first)

    os.kill(processes.find_one("live --processes 1"), signal.SIGKILL)
    second = await asyncio.to_thread(shop.push, "phone-1")
    await phone.until(lambda: len(phone.connects) == 2 and len(phone.shown) == 2)
    assert [each["id"] for each in phone.shown] == [first, second]
    assert phone.recoveries == [False, True]
    assert await phone.call("ack", {"ack": phone.shown[1]["offset"]}) == {}
    await asyncio.to_thread(shop.until_sent, second)

    await other.client.connect()
    await other.until(lambda: bool(other.connects))
    assert (await asyncio.to_thread(shop.api.call, "DELETE", "/v1/devices/phone-2/token"))[0] == 204
    await other.until(lambda: other.ends == [REVOKED.code])
    up.process.send_signal(signal.SIGTERM)
    await phone.until(lambda: phone.breaks[-1] == SHUTDOWN.code)
    await phone.client.disconnect()
    assert await asyncio.to_thread(up.wait) == 0, up.output()


async def test_two_gateways_share_a_port_and_a_poll_is_answered_at_their_end(
    tmp_path: Path, processes: Processes
) -> None:
    shop = Shop(tmp_path)
    live = processes.start("live", "--processes", "2", **shop.environ)
    until(lambda: f"both are ready: {live.output()}", lambda: live.output().count('"ready"') == 2)
    gateways = [json.loads(line)["pid"] for line in live.output().splitlines() if '"ready"' in line]
    priorities = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (live.process.pid, *gateways)]
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert priorities == [own, *[max(own, 7)] * 2], "who calls the API goes first; it owns the store as well"

    def holder(device: str) -> Api:
        return Api(shop.url, issue("shop", device, SECRET, now=time.time(), ttl=3600, token_id="t"))

    def denied_by_both() -> bool:
        """Each of the two reads the changed file within seconds."""
        return {holder("phone-2").call("GET", "/v1/live/history")[0] for _ in range(8)} == {403}

    assert holder("phone-2").call("GET", "/v1/live/history")[0] == 401, "nobody knows it"
    shop.file.write_text(shop.file.read_text().replace("drain = 2.0", 'drain = 2.0\ndeny = ["phone-2"]'))

    device = holder("phone-1")
    settings = load_settings(shop.file, {})
    async with open_running_store(settings) as store:
        phone = Device(id="phone-1", platform="live", token="phone-1", user="a", registered_at=1, last_seen_at=1)
        await store.registry.put_many("shop", [phone])
        workers = await store.workers.living()
        assert [(each.part, each.serves) for each in workers] == [("live", frozenset({"shop"}))] * 2
        assert len(await store.live.gateways("shop")) == 2
        await asyncio.to_thread(until, lambda: live.output(), denied_by_both)
        poll = asyncio.create_task(asyncio.to_thread(device.call, "GET", "/v1/live/poll?wait=50"))
        while not (await store.live.presence("shop", ["phone-1"]))[0].route:  # type: ignore[union-attr]  # registered
            await asyncio.sleep(0.01)
        live.process.send_signal(signal.SIGTERM)
        status, page = await poll
        assert (status, page["publications"]) == (200, [])
    assert await asyncio.to_thread(live.wait) == 0, live.output()
