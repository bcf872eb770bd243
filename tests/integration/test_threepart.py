"""A provider whose addresses have three parts, with nothing in `pushsvc` that knows of it: one line in each registry.

Its answers on the real transport against its own half of the simulator, and its own waits and stale age.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pushsvc import runtime
from pushsvc.model.delivery import Sent, Throttled, TokenDead, Unavailable
from pushsvc.settings import CleanupSettings, RetrySettings

from ..fakes.threepart import PLATFORM, Subscription, registered, subscription
from .provider_rig import Rig, play

NOW = time.time_ns() // 1_000_000 + 30_000
"""Ahead of the clock of the store, by less than two clocks may differ."""


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with registered():
        yield


def test_its_waits_and_its_stale_age_are_keys_of_the_configuration(tmp_path: Path) -> None:
    policy = runtime.retry_policy(RetrySettings())
    assert (policy.server_error[PLATFORM], policy.throttled[PLATFORM]) == (7.0, 11.0)
    assert PLATFORM not in policy.silent
    assert runtime.ages(CleanupSettings()).stale[PLATFORM] == 100 * 86400.0
    file = tmp_path / "pushsvc.toml"
    file.write_text(f"[retry]\n{PLATFORM}_5xx = 1.5\n[cleanup]\n{PLATFORM}_stale = 60.0\n")
    settings = runtime.load_settings(file, {f"PUSHSVC__RETRY__{PLATFORM.upper()}_429": "2.5"})
    policy = runtime.retry_policy(settings.retry)
    assert (policy.server_error[PLATFORM], policy.throttled[PLATFORM]) == (1.5, 2.5)
    assert runtime.ages(settings.cleanup).stale[PLATFORM] == 60.0


def test_every_answer_on_the_real_transport(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
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

    play(PLATFORM, tmp_path, scene)
