"""Which channels carry a delivery to a device: the order of the app, its rules, the push, and the platform."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from pushsvc.model.delivery import Ended, Retry
from pushsvc.model.devices import Device
from pushsvc.model.live import Order
from pushsvc.model.push import Chunk, Fallback, Message, Platform, Push, Target, Via
from pushsvc.model.routing import path_of
from pushsvc.rules.audience import is_served, present
from pushsvc.rules.channels import NO_LIVE, ChannelRule, ChannelRules, path_to, paths_of
from pushsvc.rules.life import lives_on
from pushsvc.rules.policy import left_out

from .dispatch_fakes import START

NOW = int(START * 1000)
BOTH = ("apns", "live")


def push(*messages: Platform, via: Via = "auto", dry_run: bool = False, at: int = NOW) -> Push:
    return Push(
        id="p",
        app="shop",
        lane="normal",
        created_at=at,
        expires_at=at + 1,
        messages={name: Message(name, b"{}") for name in messages},
        targets={},
        dry_run=dry_run,
        via=via,
    )


def phone(platform: Platform = "apns", **fields: object) -> Device:
    return Device(id="d", platform=platform, token="t", **fields)  # type: ignore[arg-type]  # its own fields


@pytest.mark.parametrize(
    ("order", "messages", "dry_run", "path"),
    [
        ("live, provider", BOTH, False, "apns:live>apns"),
        ("live, provider", ("apns",), False, "apns"),
        ("live, provider", ("live",), False, "apns:live"),
        ("live, provider", (), False, "apns"),
        ("live, provider", BOTH, True, "apns"),
        ("live, provider", ("live",), True, "apns:live"),
        ("provider", BOTH, False, "apns"),
        ("provider", ("live",), False, "apns:live"),
        ("provider, live", BOTH, False, "apns:live>apns>live"),
        ("provider, live", ("live",), False, "apns:live"),
        ("provider, live", ("apns",), False, "apns"),
        ("provider, live", BOTH, True, "apns"),
        ("live", BOTH, False, "apns:live"),
        ("live", ("apns",), False, "apns"),
    ],
)
def test_the_path_to_a_device_with_a_token(
    order: Order, messages: tuple[str, ...], dry_run: bool, path: Platform
) -> None:
    assert path_to("apns", order, messages, dry_run=dry_run) == path
    assert path_to("live", order, messages, dry_run=dry_run) == "live"


@pytest.mark.parametrize(
    ("rules", "via", "messages", "paths"),
    [
        # By device: an old one, a new one, one that only the live channel reaches.
        (NO_LIVE, "auto", ("apns", "fcm"), ["fcm", "fcm", "live"]),
        (ChannelRules("live, provider"), "auto", ("fcm", "live"), ["fcm:live>fcm", "fcm:live>fcm", "live"]),
        (ChannelRules("live, provider"), "live", ("live",), ["fcm:live", "fcm:live", "live"]),
        (ChannelRules("provider"), "live", ("live",), ["fcm:live", "fcm:live", "live"]),
        (ChannelRules("live, provider"), "provider", ("fcm",), ["fcm", "fcm", "live"]),
        (
            ChannelRules("live", (ChannelRule("platform == 'fcm' and app_version < '3.0'", "provider"),)),
            "auto",
            ("fcm", "live"),
            ["fcm", "fcm:live", "live"],
        ),
        (  # The first rule that selects the device decides.
            ChannelRules(
                "live",
                (
                    ChannelRule("app_version < '2.0'", "live"),
                    ChannelRule("app_version < '3.0'", "provider, live"),
                    ChannelRule("app_version < '4.0'", "provider"),
                ),
            ),
            "auto",
            ("fcm", "live"),
            ["fcm:live>fcm>live", "fcm", "live"],
        ),
        (  # What the push asks for is above the rules.
            ChannelRules("live", (ChannelRule("platform == 'fcm'", "provider"),)),
            "live",
            ("live",),
            ["fcm:live", "fcm:live", "live"],
        ),
    ],
)
def test_the_rules_of_the_app_and_the_wish_of_the_push(
    rules: ChannelRules, via: Via, messages: tuple[str, ...], paths: list[Platform]
) -> None:
    path_of = paths_of(push(*messages, via=via), {}, rules)
    devices = [phone("fcm", app_version="2.1"), phone("fcm", app_version="3.1"), phone("live")]
    assert [path_of(device) for device in devices] == paths


def test_an_environment_has_its_own_route_in_a_path() -> None:
    routes = {("apns", None): "apns", ("apns", "production"): "apns", ("apns", "sandbox"): "apns_sandbox"}
    path_of = paths_of(push("apns", "apns_sandbox", "live"), routes, ChannelRules("live, provider"))  # type: ignore[arg-type]
    assert [path_of(phone(environment=each)) for each in ("production", "sandbox")] == [
        "apns:live>apns",
        "apns_sandbox:live>apns_sandbox",
    ]


def test_a_span_in_a_rule_counts_back_from_the_push() -> None:
    rules = ChannelRules("live, provider", (ChannelRule("last_seen < '30d'", "provider"),))
    device = phone(last_seen_at=NOW)
    day = 86_400_000
    assert paths_of(push(*BOTH, at=NOW + 29 * day), {}, rules)(device) == "apns:live>apns"
    assert paths_of(push(*BOTH, at=NOW + 31 * day), {}, rules)(device) == "apns"


ALIVE = phone(state="pruned", pruned_at=NOW, pruned_for="Unregistered", last_seen_at=NOW + 1)
SILENT = replace(ALIVE, last_seen_at=NOW)
STALE = replace(ALIVE, pruned_for="stale")


@pytest.mark.parametrize(
    ("device", "path", "served", "judgements"),
    [
        (phone(), "apns", True, {"apns": "sent"}),
        (phone(), "apns:live>apns", True, {"live": "sent", "apns": "sent"}),
        (ALIVE, "apns:live>apns", True, {"live": "sent", "apns": "suppressed"}),
        (ALIVE, "apns:live>apns>live", True, {"live": "sent", "apns": "goes on at live"}),
        (ALIVE, "apns:live", True, {"live": "sent"}),
        (ALIVE, "apns", False, {"apns": "suppressed"}),
        (SILENT, "apns:live>apns", False, {"live": "suppressed", "apns": "suppressed"}),
        (SILENT, "apns:live", False, {"live": "suppressed"}),
        (STALE, "apns:live>apns", False, {"live": "suppressed", "apns": "suppressed"}),
    ],
)
def test_of_a_tombstone_that_lives_on_only_the_provider_is_out(
    device: Device, path: Platform, served: bool, judgements: dict[Platform, str]
) -> None:
    reached = device.state == "active" or lives_on(device)
    assert (reached and is_served(device, lambda _: path)) == served
    message = Message("apns", b"{}")
    channels = path_of(path)[1]
    found = {}
    for place, channel in enumerate(channels[:2]):
        following = tuple(Fallback(name, message) for name in channels[place + 1 :])
        target = Target(0, "t", "d")
        chunk = Chunk(
            *("p", "shop", channel, "normal", 1, NOW, NOW + 60_000, message, (target,)),
            home="apns",
            fallbacks=following,
        )
        judged = present(target, device, chunk)
        verdict = left_out(chunk, "suppressed", judged, NOW) if isinstance(judged, str) else None
        on = f"goes on at {verdict.channel}" if isinstance(verdict, Retry) else "suppressed"
        found[channel] = "sent" if verdict is None else on
    assert found == judgements


def test_a_device_of_another_platform_is_another_device() -> None:
    chunk = Chunk("p", "shop", "apns", "normal", 1, NOW, NOW + 60_000, Message("apns", b"{}"), (Target(0, "t", "d"),))
    assert present(chunk.targets[0], phone(), chunk) is chunk.targets[0]
    assert present(chunk.targets[0], phone("fcm"), chunk) == "moved"
    assert present(chunk.targets[0], phone(), replace(chunk, channel="apns_sandbox")) is chunk.targets[0]


@pytest.mark.parametrize("reason", ["moved", "unsubscribed", "superseded", "erased"])
def test_what_is_not_about_the_token_ends_at_every_channel(reason: str) -> None:
    live = (Fallback("live", Message("live", b"{}")),)
    chunk = Chunk(
        *("p", "shop", "apns", "normal", 1, NOW, NOW + 60_000, Message("apns", b"{}"), ()), home="apns", fallbacks=live
    )
    assert left_out(chunk, "suppressed", reason, NOW) == Ended("suppressed")
    assert left_out(chunk, "suppressed", "suppressed", NOW) == Retry(NOW, 1, counted=False, channel="live")
