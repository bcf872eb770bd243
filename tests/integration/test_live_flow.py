"""The decision between the live channel and the providers, through the whole service: the API, the dispatcher and the
gateway on a real store, the simulator as APNs, and the official client as the phone.

Who is online and acknowledges costs no request to the provider; who is silent costs one after `ack_within`; who is away
costs one at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from centrifuge import (  # type: ignore[import-untyped]  # it ships no types
    Client,
    ClientDisconnectedError,
    ClientEventHandler,
    ConnectedContext,
    ServerPublicationContext,
)
from prometheus_client import REGISTRY

from pushsvc.lab.simulator import apns_token
from pushsvc.live.protocol.tokens import issue
from pushsvc.runtime.live import run_live
from pushsvc.runtime.store import open_running_store, running_store_url
from pushsvc.store import Store, keys, open_store

from .harness import Service, running_service
from .test_store_kit import entries_of

SECRET = "s" * 40
WITHIN = 1.5
LIVE = f"""
[live]
port = 0
[apps.shop.live]
secret = "{SECRET}"
ack_within = {WITHIN}
resend = 0
[[apps.shop.live.rules]]
where = "app_version < '2.0'"
order = "provider"
[[apps.shop.live.rules]]
where = "tags.order == 'provider, live'"
order = "provider, live"
"""


class Phone(ClientEventHandler):  # type: ignore[misc]  # its base has no types
    """A device with the official client, which acknowledges what it gets, or is silent."""

    def __init__(self, name: str, url: str, *, acks: bool) -> None:
        self.shown: list[dict[str, Any]] = []
        self.connections = 0
        """How often it has connected."""
        self._acks = acks
        self._connected = asyncio.Event()
        token = issue("shop", name, SECRET, now=time.time(), ttl=3600.0, token_id=name)
        self.client = Client(f"{url.replace('http', 'ws')}/connection/websocket", token=token, events=self)

    async def connect(self) -> None:
        await self.client.connect()
        await self._connected.wait()

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self.connections += 1
        self._connected.set()

    async def on_publication(self, ctx: ServerPublicationContext) -> None:
        self.shown.append(ctx.pub.data | {"offset": ctx.pub.offset})
        if self._acks:
            asyncio.get_running_loop().create_task(self._ack_at_once())  # its answer comes by this very handler

    async def _ack_at_once(self) -> None:
        with suppress(ClientDisconnectedError):  # it may go before the answer comes
            await self.ack()

    async def ack(self) -> None:
        await self.client.rpc("ack", {"ack": self.shown[-1]["offset"]})

    @property
    def ids(self) -> list[str]:
        return [each["id"] for each in self.shown]


class Town(Service):
    """A service with its gateway, and phones."""

    url: str

    async def register(self, name: str, platform: str = "apns", **fields: Any) -> None:
        token = {"token": apns_token("ok", name)} if platform == "apns" else {}
        fields = {"app_version": "3.0", **fields}
        document = {"platform": platform, **token, **fields}
        async with self.session.put(f"/v1/devices/{name}", json=document) as answer:
            assert answer.status in (200, 201), await answer.text()

    @asynccontextmanager
    async def phone(self, name: str, *, acks: bool = True) -> AsyncIterator[Phone]:
        phone = Phone(name, self.url, acks=acks)
        await phone.connect()
        try:
            yield phone
        finally:
            await phone.client.disconnect()

    async def send(self, *devices: str, **fields: Any) -> str:
        """Push to these devices; its id."""
        document = {"to": {"devices": list(devices)}, "notification": {"title": "hello"}, **fields}
        status, body = await self.post(document)
        assert status == 202, body
        return str(body["id"])

    def requests(self, *devices: str) -> list[int]:
        """How often the provider was asked for each of these devices."""
        return [self.simulator.record.apns.requests_of(apns_token("ok", name)) for name in devices]

    async def is_idle(self) -> bool:
        """Whether the dispatcher has recorded everything, and nothing waits for a provider."""
        async with open_running_store(self.settings) as store:
            figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
            assert isinstance(store, Store)
            entries = await entries_of(store)
        return not entries + figures.retry_pending["apns"] + figures.ack_pending["apns"]

    async def pending(self) -> tuple[int, int, int]:
        """How many deliveries have not ended, and of these wait for a retry, and for their phones."""
        async with open_running_store(self.settings) as store:
            gauges = await store.gauges({"shop": ("apns", "live")})
        return sum(gauges.pending.values()), gauges.retry_pending, gauges.ack_pending

    async def device(self, name: str) -> dict[str, Any]:
        async with self.session.get(f"/v1/devices/{name}") as answer:
            found: dict[str, Any] = await answer.json()
        return found

    async def outcomes(self, push: str) -> dict[str, tuple[str, str, str]]:
        """By device its end, reason and channel."""
        rows = await self.rows(push)
        return {row["device_id"]: (row["outcome"], row.get("reason", ""), row.get("channel", "")) for row in rows}


@asynccontextmanager
async def town_of(folder: Path, **more: Any) -> AsyncIterator[Town]:
    async with running_service(folder, extra=LIVE, **more) as service:
        service.__class__ = Town
        assert isinstance(service, Town)
        stop = asyncio.Event()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        gateway = asyncio.create_task(run_live(service.settings, stop, listening=listening.set_result))
        started: list[asyncio.Future[Any]] = [gateway, listening]
        await asyncio.wait(started, return_when=asyncio.FIRST_COMPLETED)
        service.url = listening.result()
        try:
            yield service
        finally:
            stop.set()
            await gateway


LOOP = uvloop.new_event_loop


@asynccontextmanager
async def open_town(folder: Path, **more: Any) -> AsyncIterator[Town]:
    async with asyncio.timeout(90), town_of(folder, **more) as town:
        yield town


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with open_town(tmp_path) as town:
        yield town


async def test_whether_a_provider_is_asked_is_decided_by_the_acknowledgement(tmp_path: Path) -> None:

    async def _has_trouble(town: Town, why: str) -> bool:
        async with town.session.get("/readyz") as answer:
            assert answer.status == 200
            held: dict[str, str] = (await answer.json()).get("held", {})
        return held.get("shop/live", "").startswith(why)

    async with open_town(tmp_path) as town:
        for name in ("acks", "silent", "away"):
            await town.register(name)
        async with town.phone("acks") as acks, town.phone("silent", acks=False) as silent:
            push = await town.send("acks", "silent", "away", collapse="c")
            assert await town.done(push) == {"total": 3, "sent": 3}
            assert town.requests("acks", "silent", "away") == [0, 1, 1]
            requests = town.simulator.record.apns.requests
            first, second = (requests(token=apns_token("ok", name))[0].at for name in ("away", "silent"))
            assert second - first > WITHIN / 2  # the one at once, the other after its time
            assert acks.ids == silent.ids == [push]
            assert await town.outcomes(push) == {
                "acks": ("sent", "", "live"),
                "silent": ("sent", "", "provider"),
                "away": ("sent", "", "provider"),
            }
            # It acknowledges too late: the same push and collapse, counted once.
            (asked,) = town.simulator.record.apns.requests(token=apns_token("ok", "silent"))
            assert asked.fields["apns-collapse-id"] == "c" == silent.shown[0]["collapse"]
            await silent.ack()
            status = await town.status(push)
            assert (status["counts"]["sent"], status["live"]) == (3, {"acked": 1, "fallback": 2, "waiting": 0})
        # Who comes back finds it in its stream.
        async with town.phone("away") as away:
            await town.until("it is shown", lambda: away.ids == [push])
        # No stream can be written: the provider is asked, and this is reported.
        async with open_store(await running_store_url(town.settings) or "") as store:
            await store.link.call("SET", f"{keys.devices('shop')}live", "of another kind")
        unwritten = await town.send("acks", "away")
        assert await town.done(unwritten) == {"total": 2, "sent": 2}
        assert town.requests("acks", "away") == [1, 2]
        await town.until("it is reported", lambda: _has_trouble(town, "streams: cannot be written (Redis refused: "))


async def test_what_waits_for_a_phone_ends_with_its_push_and_with_its_device(town: Town) -> None:
    await town.register("desk", "live")
    await town.register("silent")
    pushes = [await town.send("desk") for _ in range(5)]
    async with town.phone("silent", acks=False) as silent:
        slow = await town.send("silent", ack_within=60)
        await town.until("it is there", lambda: silent.ids == [slow])
        await town.until("all wait", lambda: _is(town.pending, (6, 0, 6)))
        assert (await town.device("desk"))["unacked"] == 5
        for push in pushes[:3]:
            async with town.session.delete(f"/v1/push/{push}") as answer:
                assert (answer.status, (await answer.json())["state"]) == (200, "cancelled")
        assert (await town.device("desk"))["unacked"] == 2
        await town.until("they are counted no more", lambda: _is(town.pending, (3, 0, 3)))
        for name in ("desk", "silent"):
            async with town.session.delete(f"/v1/devices/{name}") as answer:
                assert answer.status == 204
        for push in (*pushes[3:], slow):
            status = await town.status(push)
            assert (status["state"], status["counts"]["suppressed"]) == ("done", 1)
            assert status["live"] == {"acked": 0, "fallback": 0, "waiting": 0}
        assert await town.outcomes(slow) == {"silent": ("suppressed", "moved", "live")}
        assert await town.pending() == (0, 0, 0)
    assert town.requests("silent") == [0]


async def _is(look: Callable[[], Awaitable[object]], expected: object) -> bool:
    return await look() == expected


async def test_a_device_whose_token_is_dead_is_reached_while_it_is_connected(town: Town) -> None:
    await town.register("old", token=apns_token("Unregistered", "old"), user="ann")
    async with town.phone("old") as old:
        first = await town.send("old", via="provider")
        assert await town.done(first) == {"total": 1, "invalid": 1}

        async def is_pruned() -> bool:
            shown = await town.device("old")
            return (shown["state"], shown["online"]) == ("pruned", True)

        await town.until("it is pruned", is_pruned)
        for to in ({"devices": ["old"]}, {"users": ["ann"]}):
            status, body = await town.post({"to": to, "notification": {"title": "hello"}})
            assert (status, body.get("warnings")) == (202, None)
            assert await town.done(body["id"]) == {"total": 1, "sent": 1}
            await town.until("it is shown", lambda push=body["id"]: push in old.ids)  # type: ignore[misc]
        # Its provider is out.
        never = await town.post({"to": {"devices": ["old"]}, "notification": {"title": "hello"}, "via": "provider"})
        assert (never[0], never[1]["deliveries"], len(never[1]["warnings"])) == (202, 0, 1)
    away = await town.send("old")
    assert await town.done(away) == {"total": 1, "suppressed": 1}
    asked = town.simulator.record.apns.requests_of(apns_token("Unregistered", "old"))
    assert asked == 1


async def test_the_badge_is_what_the_user_has_not_read(town: Town) -> None:
    await town.register("phone", user="ann")
    await town.register("tablet", user="ann")
    shown = {"title": "hello", "badge": "unread"}

    async def badges(*devices: str, **fields: Any) -> list[int | None]:
        """The badge that each of these devices gets with a push to all of them."""
        push = await town.send(*devices, notification=shown, **fields)
        await town.done(push)
        requests = [town.simulator.record.apns.requests(token=apns_token("ok", name))[-1] for name in devices]
        return [json.loads(each.body)["aps"].get("badge") for each in requests]

    # It is in their streams before the provider is asked.
    assert await badges("phone", "tablet") == [1, 1]
    assert await badges("phone") == [2]
    assert await badges("tablet", via="provider") == [1]
    async with town.phone("phone", acks=False) as phone:
        await town.until("they are shown", lambda: len(phone.shown) == 2)
        assert [each["notification"]["badge"] for each in phone.shown] == ["unread", "unread"]
        await phone.client.rpc("read", {"offset": phone.shown[-1]["offset"]})
    assert await badges("phone", "tablet") == [1, 1]  # it was read for the tablet too
    document = {"to": {"tokens": [{"platform": "apns", "token": apns_token("ok", "bare")}]}, "notification": shown}
    status, body = await town.post(document)
    assert status == 202
    await town.done(body["id"])
    (asked,) = town.simulator.record.apns.requests(token=apns_token("ok", "bare"))
    assert json.loads(asked.body)["aps"] == {"alert": {"title": "hello"}}
    alone = document | {"notification": {"badge": "unread", "sound": "default"}}
    status, body = await town.post(alone)
    assert (status, body["errors"][0]["path"]) == (422, "notification.badge")


async def test_the_rules_of_the_app_and_the_push_choose_the_channels(town: Town) -> None:
    await town.register("old", app_version="1.9", locale="en")
    await town.register("second", tags={"order": "provider, live"})
    await town.register("new", app_version="2.0")
    async with town.phone("old") as old, town.phone("second") as second, town.phone("new") as new:
        push = await town.send("old", "second", "new")
        assert await town.done(push) == {"total": 3, "sent": 3}
        assert town.requests("old", "second", "new") == [1, 1, 0]
        assert await town.outcomes(push) == {
            "old": ("sent", "", "provider"),
            "second": ("sent", "", "provider"),
            "new": ("sent", "", "live"),
        }
        # What the provider was asked for first stands in the stream, and nothing was poked for it.
        page = await second.client.history("device", limit=10)
        assert [each.data["id"] for each in page.publications] == [push]
        assert (old.ids, second.ids, new.ids) == ([], [], [push])
        # The push is above the rules.
        only = await town.send("old", "new", via="live")
        never = await town.send("old", "new", via="provider")
        assert await town.done(only, never) == {"total": 4, "sent": 4}
        assert town.requests("old", "new") == [2, 1]
        assert (old.ids, new.ids) == ([only], [push, only])


async def test_an_acknowledgement_just_after_the_provider_was_asked_is_counted_once(tmp_path: Path) -> None:
    def counted() -> float:
        labels = {"app": "shop", "platform": "apns", "outcome": "sent", "reason": ""}
        return REGISTRY.get_sample_value("pushsvc_deliveries_total", labels) or 0.0

    async with open_town(tmp_path, request_timeout=1.0) as town:
        before = counted()
        await town.register("slow", token=apns_token("stall.1", "slow"))
        async with town.phone("slow", acks=False) as slow:
            push = await town.send("slow")
            requests_of = town.simulator.record.apns.requests_of
            await town.until("the provider is asked", lambda: requests_of(apns_token("stall.1", "slow")) == 1)
            assert (await town.status(push))["live"] == {"acked": 0, "fallback": 1, "waiting": 0}
            await slow.ack()
            assert await town.done(push) == {"total": 1, "sent": 1}
            assert (await town.status(push))["live"] == {"acked": 1, "fallback": 0, "waiting": 0}
            assert await town.outcomes(push) == {"slow": ("sent", "", "live")}
            # The request ends without an answer, and nothing follows.
            await town.until("nothing is in flight", town.is_idle)
            assert requests_of(apns_token("stall.1", "slow")) == 1
            assert await town.done(push) == {"total": 1, "sent": 1}
            # Where the provider accepts it as well.
            late = apns_token("slow-800", "late")
            await town.register("late", token=late)
            push = await town.send("late")
            await town.until("the provider is asked", lambda: requests_of(late) == 1)
            async with town.phone("late", acks=False) as phone:
                await town.until("it is shown", lambda: phone.ids == [push])
                await phone.ack()
            assert await town.done(push) == {"total": 1, "sent": 1}
            await town.until("nothing is in flight", town.is_idle)
            assert counted() == before + 2


async def test_what_only_the_live_channel_carries_waits_for_the_device_until_it_expires(tmp_path: Path) -> None:

    async def _waits(town: Town, push: str) -> bool:
        status = await town.status(push)
        return bool(status["live"] == {"acked": 0, "fallback": 0, "waiting": 1})

    async with open_town(tmp_path) as town:
        for name in ("here", "there"):
            await town.register(name, "live", user=name)
        async with town.phone("here") as here:
            never = await town.send("here", "there", ttl=0)
            short = await town.send("there", ttl=1)
            gone = await town.send("there")
            replaced, later = [await town.send("there", collapse="c", data={"n": str(n)}) for n in range(2)]
            assert await town.done(never, short) == {"total": 3, "sent": 1, "expired": 2}
            await town.until("it waits", lambda: _waits(town, gone))
            assert await town.done(replaced) == {"total": 1, "suppressed": 1}
            async with town.session.delete(f"/v1/push/{gone}") as answer:
                assert (await answer.json())["counts"]["cancelled"] == 1
            assert here.ids == [never]
            # Now or never, expired, cancelled, replaced: of all of these nothing is shown.
            async with town.phone("there") as there:
                assert await town.done(later) == {"total": 1, "sent": 1}
                assert there.ids == [later]
            assert (await town.status(later))["live"] == {"acked": 1, "fallback": 0, "waiting": 0}


async def test_what_is_cancelled_while_the_provider_is_asked_first_is_not_shown(tmp_path: Path) -> None:
    async with open_town(tmp_path, request_timeout=1.0) as town:
        tags = {"order": "provider, live"}
        await town.register("slow", token=apns_token("stall.9", "slow"), tags=tags)
        push = await town.send("slow")
        requests_of = town.simulator.record.apns.requests_of
        # Before that it was appended to the stream, of which the status knows nothing yet.
        await town.until("the provider is asked", lambda: requests_of(apns_token("stall.9", "slow")) == 1)
        async with town.session.delete(f"/v1/push/{push}") as answer:
            assert answer.status == 200, await answer.text()
        async with town.phone("slow") as phone:
            later = await town.send("slow", via="live")
            assert await town.done(later) == {"total": 1, "sent": 1}
            assert phone.ids == [later]
            page = await phone.client.history("device", limit=10)
            assert [each.data["id"] for each in page.publications] == [later]
        # The request ends without an answer, and nothing follows.
        await town.until("nothing is in flight", town.is_idle)
        status = await town.status(push)
        assert (status["state"], status["counts"]["cancelled"]) == ("cancelled", 1)
        assert requests_of(apns_token("stall.9", "slow")) == 1


async def test_who_is_erased_is_waited_for_no_more(tmp_path: Path) -> None:

    async def _waiting(town: Town, push: str) -> bool:
        return bool((await town.status(push))["live"]["waiting"] == 2)

    async with open_town(tmp_path) as town:
        for name, platform in (("anna-web", "live"), ("anna-phone", "apns")):
            await town.register(name, platform, user="anna")
        push = await town.send("anna-web", "anna-phone", via="live")
        await town.until("they wait", lambda: _waiting(town, push))
        async with town.session.delete("/v1/users/anna") as answer:
            assert answer.status == 200, await answer.text()
        assert await town.done(push) == {"total": 2, "cancelled": 2}
        assert {outcome[1] for outcome in (await town.outcomes(push)).values()} == {"erased"}
        assert town.requests("anna-phone") == [0]


async def test_the_channels_follow_the_configuration_while_the_service_runs(tmp_path: Path) -> None:

    async def _not(held: Awaitable[bool]) -> bool:
        return not await held

    async def _waits(town: Town) -> bool:
        push = await town.send("web", ttl=0)
        return await town.done(push) == {"total": 1, "expired": 1}

    async with open_town(tmp_path) as town:
        file = tmp_path / "pushsvc.toml"
        text = file.read_text()

        async def write(changed: str, what: str, reached: Callable[[], Awaitable[bool]]) -> None:
            file.write_text(changed)
            await town.until(what, reached)

        async def goes_by(channel: str) -> bool:
            push = await town.send("phone")
            await town.done(push)
            return (await town.outcomes(push))["phone"][2] == channel

        async def is_held(name: str) -> bool:
            async with town.session.get("/readyz") as answer:
                return name in (await answer.json()).get("held", {})

        await town.register("phone")
        await town.register("web", "live")
        async with town.phone("phone"):
            assert await goes_by("live")
            section = f'[apps.shop.live]\nsecret = "{SECRET}"'
            changed = text.replace(section, f'{section}\norder = "provider"')
            await write(changed, "the provider carries it", lambda: goes_by("provider"))
        waits = await town.send("web", ttl=2)
        # Its route is gone: it is held for as long as something waits there, which expires all the same.
        await write(text[: text.index("[live]")], "the route is held", lambda: is_held("shop/live"))
        assert await town.done(waits) == {"total": 1, "expired": 1}
        await town.until("nothing is held", lambda: _not(is_held("shop/live")))
        await write(text, "the live channel carries it", lambda: _waits(town))
