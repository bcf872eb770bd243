"""Which channels carry a delivery to a device: the order of the app, its rules, the push, and the platform."""

from __future__ import annotations

import pytest

from pushsvc.model.devices import Device
from pushsvc.model.live import Order
from pushsvc.model.push import Message, Platform, Push, Via
from pushsvc.rules.channels import NO_LIVE, ChannelRule, ChannelRules, path_to, paths_of

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
