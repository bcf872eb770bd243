"""A provider whose addresses have three parts, with nothing in `pushsvc` that knows of it: one line in each registry.

Its answers on the real transport against its own half of the simulator, its own waits and stale age, and the whole way
of its addresses through the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from pushsvc.lab.simulator import Simulator
from pushsvc.model.delivery import Sent, Throttled, TokenDead, Unavailable
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.plans import ages, retry_policy
from pushsvc.settings.schema import CleanupSettings, RetrySettings

from ..fakes.threepart import PLATFORM, Subscription, registered, subscription
from .harness import Service, running_service
from .provider_rig import rigged


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


def test_its_waits_and_its_stale_age_are_keys_of_the_configuration(tmp_path: Path) -> None:
    policy = retry_policy(RetrySettings())
    assert (policy.server_error[PLATFORM], policy.throttled[PLATFORM]) == (7.0, 11.0)
    assert PLATFORM not in policy.silent
    assert ages(CleanupSettings()).stale[PLATFORM] == 100 * 86400.0
    file = tmp_path / "pushsvc.toml"
    file.write_text(f"[retry]\n{PLATFORM}_5xx = 1.5\n[cleanup]\n{PLATFORM}_stale = 60.0\n")
    settings = load_settings(file, {f"PUSHSVC__RETRY__{PLATFORM.upper()}_429": "2.5"})
    policy = retry_policy(settings.retry)
    assert (policy.server_error[PLATFORM], policy.throttled[PLATFORM]) == (1.5, 2.5)
    assert ages(settings.cleanup).stale[PLATFORM] == 60.0


async def test_every_answer_on_the_real_transport(tmp_path: Path) -> None:
    async with rigged(PLATFORM, tmp_path) as rig:
        url = rig.simulator.urls[PLATFORM]
        scenarios = ("ok", "Gone", "TooManyRequests,retry-after-3", "ServiceUnavailable")
        addresses = [
            msgspec.json.encode(msgspec.convert(subscription(url, each, "1"), Subscription)).decode()
            for each in scenarios
        ]
        sent, dead, throttled, away = await rig.send(*addresses, kind="subscription")
        assert isinstance(sent, Sent)
        assert isinstance(dead, TokenDead)
        assert isinstance(throttled, Throttled)
        assert throttled.retry_after == 3.0
        assert isinstance(away, Unavailable)


async def test_its_addresses_go_the_whole_way_through_the_service(tmp_path: Path) -> None:
    def extra(simulator: Simulator) -> str:
        credentials = simulator.write_credentials(tmp_path / "simulator")
        url = simulator.urls[PLATFORM]
        return f'[apps.shop.{PLATFORM}]\nendpoint = "{url}"\nca_file = "{credentials.ca_file}"\n'

    async def story(service: Service) -> None:
        def target(scenario: str, unique: str, auth: str = "Qg") -> dict[str, Any]:
            address = subscription(service.simulator.urls[PLATFORM], scenario, unique, auth=auth)
            return {"platform": PLATFORM, "subscription": address}

        device = {**target("ok", "device", "Qg=="), "user": "ann"}
        async with service.session.put("/v1/devices/d", json=device) as answer:
            assert answer.status == 201
        async with service.session.get("/v1/devices/d") as answer:
            assert (await answer.json())["subscription"] == target("ok", "device")["subscription"]
        status, body = await service.post({"to": {"users": ["ann"]}, "notification": {"title": "t"}})
        assert (status, body["deliveries"]) == (202, 1)
        assert await service.done(body["id"]) == {"total": 1, "sent": 1}

        dead = target("Gone", "2")
        push = await service.push([target("ok", "1"), target("ok", "1", "Qg=="), dead])
        assert await service.done(push) == {"total": 2, "sent": 1, "invalid": 1}

        events: list[dict[str, Any]] = []

        async def reported() -> bool:
            async with service.session.get("/v1/feedback") as answer:
                events[:] = (await answer.json())["items"]
            return bool(events)

        await service.until("the dead address is reported", reported)
        assert [msgspec.json.decode(event["token"]) for event in events] == [dead["subscription"]]
        assert await service.done(await service.push([dead])) == {"total": 1, "suppressed": 1}
        padded = msgspec.json.encode(target("Gone", "2", "Qg==")["subscription"]).decode()
        async with service.session.delete(f"/v1/suppressions/{PLATFORM}/{quote(padded, safe='')}") as answer:
            assert answer.status == 204
        assert await service.done(await service.push([dead])) == {"total": 1, "invalid": 1}

        status, problem = await service.post({"to": {"tokens": [target("ok", "1", "no key")]}, "data": {"a": "b"}})
        assert (status, [fault["path"] for fault in problem["errors"]]) == (
            422,
            ["to.tokens[0].subscription.keys.auth"],
        )
        async with service.session.get("/openapi.json") as answer:
            schemas = (await answer.json())["components"]["schemas"]
        assert "subscription" in schemas["TokenTarget"]["properties"]
        assert schemas["Keys"]["properties"].keys() == {"p256dh", "auth"}

    async with running_service(tmp_path, extra=extra) as service:
        await story(service)
