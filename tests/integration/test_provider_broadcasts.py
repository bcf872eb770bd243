"""Broadcast channels and Live Activities end to end: our transport and real sockets; the simulator verifies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from pushsvc.errors import BadGateway, Conflict, NotFound, Unavailable
from pushsvc.lab.simulator import Credentials, Keys, Simulator, SimulatorConfig, channel_id
from pushsvc.model.delivery import BadNotification, Misconfigured, Sent, Throttled, TokenDead, Unavailable as Retried
from pushsvc.model.push import Content, LiveActivity, Route
from pushsvc.ports.channels import ChannelAccount
from pushsvc.providers.apns import Config, open_channels, open_provider
from pushsvc.providers.apns.fields import NAMESPACE
from pushsvc.runtime.channels import OpenedChannels
from pushsvc.settings.schema import AppSettings

from .provider_rig import Rig, rigged, section

UPDATE = LiveActivity(event="update", content_state={"score": Raw(b'"1:0"')})
TOKEN = "ab" * 32


def config_of(simulator: Simulator, credentials: Credentials, **options: Any) -> Config:
    return msgspec.convert(section("apns", simulator, credentials, **options), Config)


@asynccontextmanager
async def simulated(
    folder: Path, *, request_timeout: float = 10.0, certificate: bool = False, **flags: Any
) -> AsyncIterator[tuple[Simulator, ChannelAccount]]:
    """A simulator, and the channels of an account at it."""
    async with Simulator(SimulatorConfig(**flags)) as simulator:
        credentials = simulator.write_credentials(folder)
        options = {"cert_file": str(credentials.apns_cert_file)} if certificate else {}
        async with open_channels(
            config_of(simulator, credentials, **options), request_timeout=request_timeout
        ) as channels:
            yield simulator, channels


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged("apns", tmp_path) as rig:
        yield rig


# --- channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", [False, True])
async def test_a_channel_lives_from_its_making_to_its_end(tmp_path: Path, certificate: bool) -> None:
    async with simulated(tmp_path, certificate=certificate) as (simulator, channels):
        assert await channels.all() == []
        none, latest = await channels.create("none"), await channels.create("latest")
        assert (none.storage, latest.storage) == ("none", "latest")
        assert await channels.get(none.id) == none
        assert await channels.get(latest.id) == latest
        assert await channels.all() == [none.id, latest.id]
        await channels.delete(none.id)
        assert await channels.all() == [latest.id]
        for call in (channels.get(none.id), channels.delete(none.id)):
            with pytest.raises(NotFound, match="400 ChannelNotRegistered"):
                await call
        received = simulator.record.apns.requests()
        assert len({item.fields["apns-request-id"] for item in received}) == len(received)
        assert all(uuid.UUID(item.fields["apns-request-id"]).version == 4 for item in received)
        assert simulator.record.apns.accepted == 0
        assert simulator.record.apns.traffic.connections == 1


async def test_ten_thousand_channels_are_listed(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (simulator, channels):
        body = b'{"message-storage-policy":0,"push-type":"LiveActivity"}'
        made = [simulator.channels.create(simulator.config.topic, body)[1] for _ in range(10_000)]
        assert await channels.all() == made
        with pytest.raises(Conflict, match=r"CannotCreateChannelConfig: .* \(10,000\)"):
            await channels.create("none")


async def test_what_is_switched_off_or_refused_is_said(tmp_path: Path) -> None:
    async with simulated(tmp_path, broadcasts=False) as (simulator, channels):
        with pytest.raises(Conflict, match=r"FeatureNotEnabled: .* for com\.example\.shop"):
            await channels.create("none")
        simulator.channels.enabled = True
        simulator.break_credentials("apns")
        with pytest.raises(BadGateway, match="403 InvalidProviderToken"):
            await channels.all()
        simulator.control("calm")
        simulator.control("unavailable", platform="apns")
        with pytest.raises(Unavailable, match="503 Service Unavailable"):
            await channels.all()
        simulator.control("calm")
        with pytest.raises(Unavailable, match="429 TooManyRequests") as caught:
            await channels.get(channel_id("retry-after-9,TooManyRequests", "a"))
        assert caught.value.retry_after == 9


async def test_a_silent_provider_costs_the_request_timeout_and_no_more(tmp_path: Path) -> None:
    async with simulated(tmp_path, request_timeout=0.5) as (simulator, channels):
        assert await channels.all() == []
        simulator.control("stall", platform="apns")
        with pytest.raises(Unavailable, match=r"no answer \(timeout\); the request may have been"):
            await channels.create("none")
        simulator.control("stall", on=False, platform="apns")
        await channels.create("none")


async def test_nobody_listens_there(tmp_path: Path) -> None:
    async with Simulator() as simulator:
        credentials = simulator.write_credentials(tmp_path)
        config = config_of(simulator, credentials, channels_endpoint="https://127.0.0.1:1")
        async with open_channels(config, request_timeout=0.5) as channels:
            with pytest.raises(Unavailable, match=r"cannot be reached: 127\.0\.0\.1:1: connection refused"):
                await channels.all()


async def test_a_goaway_loses_no_call(tmp_path: Path) -> None:
    async with simulated(tmp_path) as (simulator, channels):
        for _ in range(3):
            await channels.create("none")
            simulator.control("goaway", platform="apns")
        assert len(await channels.all()) == 3


# --- accounts, opened when they are asked for -----------------------------------------------------


async def test_an_account_is_opened_once_kept_a_while_and_opened_anew_when_it_changes(tmp_path: Path) -> None:
    async def main() -> None:
        async with Simulator() as simulator:
            credentials = simulator.write_credentials(tmp_path)
            config = config_of(simulator, credentials)
            apps = {
                "shop": AppSettings(name="shop", providers={"apns": config}),
                "news": AppSettings(name="news", providers={}),
            }
            traffic = simulator.record.apns.traffic

            async def call(app: str = "shop") -> list[str]:
                async with opened.of(app) as account:
                    return await account.all()

            async with OpenedChannels(lambda: apps, request_timeout=10.0, idle=0.05) as opened:
                assert traffic.connections == 0
                await asyncio.gather(*(call() for _ in range(20)))
                assert traffic.connections == 1
                while simulator.state()["apns"]["connections"]:
                    await asyncio.sleep(0.01)
                await call()
                assert traffic.connections == 2
                # Another section, or another key in the same file, is another account.
                apps["shop"] = AppSettings(name="shop", providers={"apns": msgspec.structs.replace(config, window=7)})
                await call()
                assert traffic.connections == 3
                Path(config.key_file).touch()
                await call()
                assert traffic.connections == 4
                for app in ("news", "nobody"):
                    with pytest.raises(Conflict, match=rf"add \[apps.{app}.apns\]"):
                        await call(app)
                Path(config.key_file).write_text("no key")
                with pytest.raises(BadGateway, match="credentials cannot be used"):
                    await call()
            while simulator.state()["apns"]["connections"]:
                await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await main()


# --- broadcasts ---------------------------------------------------------------------------------


async def test_a_broadcast_reaches_its_channel_with_the_right_headers(rig: Rig) -> None:
    topic = rig.simulator.config.topic
    body = b'{"message-storage-policy":%d,"push-type":"LiveActivity"}'
    none, latest = (rig.simulator.channels.create(topic, body % policy)[1] for policy in (0, 1))
    outcomes = await rig.send(none, latest, content=Content(live_activity=UPDATE), kind="channel")
    ids = [str(uuid.uuid5(NAMESPACE, f"push-1:{index}")) for index in range(2)]
    assert outcomes == [Sent(status=200, provider_id=own_id) for own_id in ids]
    # What says no expiration lasts to its end where the channel keeps it; that this one keeps nothing is learnt.
    end = str((1 << 60) // 1000)
    first, received = rig.simulator.record.apns.requests(token=none)
    assert (first.reason, first.fields["apns-expiration"]) == ("BadExpirationDate", end)
    (kept,) = rig.simulator.record.apns.requests(token=latest)
    assert (kept.status, kept.fields["apns-expiration"]) == (200, end)
    assert received.body == b'{"aps":{"timestamp":1700000000,"event":"update","content-state":{"score":"1:0"}}}'
    assert {name: value for name, value in received.fields.items() if name != "authorization"} == {
        ":method": "POST",
        ":scheme": "https",
        ":authority": rig.simulator.apns_url.removeprefix("https://"),
        ":path": f"/4/broadcasts/apps/{topic}",
        "apns-channel-id": none,
        "apns-request-id": ids[0],
        "apns-push-type": "liveactivity",
        "apns-priority": "10",
        "apns-expiration": "0",
    }
    assert [item.status for item in rig.simulator.record.apns.requests(apns_id=ids[1])] == [200]
    # A repeat of the same delivery is known by its id.
    rig._pushes = 0
    await rig.send(none, content=Content(live_activity=UPDATE), kind="channel")
    assert rig.simulator.record.apns.duplicates == 1
    assert [item.status for item in rig.simulator.record.apns.requests(token=none)] == [400, 200, 200]

    stored = Content(live_activity=UPDATE, ttl=3600)
    outcomes = await rig.send(none, latest, content=stored, kind="channel")
    assert outcomes[0] == BadNotification(status=400, reason="BadExpirationDate")
    assert type(outcomes[1]) is Sent


async def test_broadcasts_may_have_a_host_of_their_own(tmp_path: Path) -> None:
    keys = Keys()
    async with Simulator(keys=keys) as devices, Simulator(keys=keys) as broadcasts:
        credentials = devices.write_credentials(tmp_path)
        config = config_of(devices, credentials, broadcast_endpoint=broadcasts.apns_url)
        async with open_provider(Route("shop", "apns"), config, request_timeout=10.0) as provider:
            rig = Rig(devices, provider)
            given = Content(live_activity=UPDATE)
            outcomes = await rig.send(channel_id("ok", "a"), content=given, kind="channel")
            outcomes += await rig.send(TOKEN)
            assert [type(outcome) for outcome in outcomes] == [Sent, Sent]
        assert (broadcasts.record.apns.totals, devices.record.apns.totals) == ({"200": 1}, {"200": 1})


async def test_each_refusal_of_a_broadcast_has_its_class(rig: Rig) -> None:
    channels = [
        channel_id(scenario, "a")
        for scenario in (
            "ChannelNotRegistered", "FeatureNotEnabled", "retry-after-3,TooManyRequests", "InternalServerError",
            "BadPriority", "ok",
        )
    ]  # fmt: skip
    outcomes = await rig.send(*channels, "AAAA", content=Content(live_activity=UPDATE), kind="channel")
    own_id = str(uuid.uuid5(NAMESPACE, "push-1:5"))
    assert outcomes == [
        TokenDead(status=400, reason="ChannelNotRegistered"),
        Misconfigured(status=400, reason="FeatureNotEnabled", part="broadcasts"),
        Throttled(status=429, reason="TooManyRequests", retry_after=3.0),
        Retried(status=500, reason="InternalServerError"),
        BadNotification(status=400, reason="BadPriority"),
        Sent(status=200, provider_id=own_id),
        TokenDead(status=400, reason="ChannelNotRegistered"),
    ]


async def test_a_certificate_broadcasts_too(tmp_path: Path) -> None:
    async with rigged("apns", tmp_path, certificate=True) as rig:
        outcomes = await rig.send(channel_id("ok", "a"), content=Content(live_activity=UPDATE), kind="channel")
        assert [type(outcome) for outcome in outcomes] == [Sent]
        assert "authorization" not in rig.simulator.record.apns.requests()[0].fields


@pytest.mark.parametrize("kind", ["push_to_start", "activity"])
async def test_live_activities_of_a_device_go_to_its_own_topic(tmp_path: Path, kind: str) -> None:
    start = LiveActivity(
        event="start",
        content_state=UPDATE.content_state,
        attributes_type="Match",
        attributes={},
        alert={"title": Raw(b'"Go"')},
    )
    async with rigged("apns", tmp_path) as rig:
        given = Content(live_activity=start if kind == "push_to_start" else UPDATE)
        assert [type(outcome) for outcome in await rig.send(TOKEN, content=given, kind=kind)] == [Sent]
        (received,) = rig.simulator.record.apns.requests(token=TOKEN)
        assert received.fields[":path"] == f"/3/device/{TOKEN}"
        assert received.fields["apns-topic"] == "com.example.shop.push-type.liveactivity"
        assert received.fields["apns-push-type"] == "liveactivity"


async def test_the_largest_broadcast_is_accepted(rig: Rig) -> None:
    def sized(size: int) -> Content:
        return Content(live_activity=LiveActivity(event="update", content_state={"x": Raw(b'"%b"' % (b"x" * size))}))

    await rig.send(channel_id("ok", "a"), content=sized(0), kind="channel")
    empty = len(rig.simulator.record.apns.requests()[-1].body)
    outcomes = await rig.send(channel_id("ok", "a"), content=sized(5120 - empty), kind="channel")
    assert [type(outcome) for outcome in outcomes] == [Sent]
    assert len(rig.simulator.record.apns.requests()[-1].body) == 5120
