"""Which account of an app reaches a device or a token, and what becomes of those that none reaches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pushsvc.api.pushes.document import read
from pushsvc.api.rules import Rules
from pushsvc.errors import ConfigError, InvalidRequest
from pushsvc.model.codec import contents_of, decode_chunk, encode_chunk, split
from pushsvc.model.delivery import Sent
from pushsvc.model.devices import Device, Environment
from pushsvc.model.push import Message, Platform, Push, Route, Target
from pushsvc.model.routing import RouteTable, path_name, path_of, platform_of, reachable, table_of
from pushsvc.providers import REGISTRY
from pushsvc.providers.kind import no_environment
from pushsvc.runtime.providers import addresses
from pushsvc.settings.loading import load
from pushsvc.stages.dispatch.holdings import NO_ROUTE

from .dispatch_fakes import FakeProvider, memory_store, push
from .test_dispatch_route import until_ended, working
from .virtual_time import VirtualLoop

LOOP = VirtualLoop
BOTH: dict[Platform, Environment] = {"apns": "production", "apns_sandbox": "sandbox"}


@pytest.mark.parametrize(
    ("accounts", "unknown", "production", "sandbox"),
    [
        ({"apns": "production"}, "apns", "apns", "apns_sandbox"),
        ({"apns": "sandbox"}, "apns", "apns_production", "apns"),
        (BOTH, "apns", "apns", "apns_sandbox"),
        ({"apns_sandbox": "sandbox"}, "apns_sandbox", "apns_production", "apns_sandbox"),
    ],
)
def test_each_environment_has_its_route(
    accounts: dict[Platform, Environment], unknown: str, production: str, sandbox: str
) -> None:
    table = table_of(accounts)
    assert (table["apns", None], table["apns", "production"], table["apns", "sandbox"]) == (
        unknown,
        production,
        sandbox,
    )
    assert {platform_of(route) for route in table.values()} == {"apns"}
    assert set(table.values()) <= set(addresses().routes_of("apns"))
    assert ("fcm", "sandbox") not in table  # its tokens belong to none


def test_the_registry_and_the_names_of_routes_agree() -> None:
    for route, kind in REGISTRY.items():
        assert platform_of(route) == kind.platform
        assert route in addresses().routes_of(kind.platform)


def _rules(routes: RouteTable) -> Rules:
    return Rules("shop", frozenset({"apns", "fcm"}), addresses(), routes=routes)


def _tokens(*entries: dict[str, str]) -> bytes:
    return msgspec.json.encode({"to": {"tokens": entries}, "notification": {"title": "t"}})


def test_the_platforms_whose_tokens_belong_to_an_environment_are_known() -> None:
    for route, kind in REGISTRY.items():
        divided = kind.environment is not no_environment
        assert divided == any(each.environments for each in kind.addresses.values()), route


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([("A0" * 16, None), ("a0" * 16, "production"), ("b0" * 16, "sandbox")], None),
        ([("a0" * 16, "sandbox"), ("A0" * 16, None), ("a0" * 16, "production")], "to.tokens[1]; the same of 1 more"),
        ([("a0" * 16, None), ("b0" * 16, None), ("a0" * 16, "sandbox")], "to.tokens[2]"),
    ],
)
def test_a_token_that_is_named_for_two_environments_is_one_delivery_with_a_warning(
    tokens: list[tuple[str, str | None]], said: str | None
) -> None:
    named = [{"platform": "apns", "token": text} | ({"environment": where} if where else {}) for text, where in tokens]
    draft = read(_tokens(*named), _rules(table_of(BOTH)), 0)
    assert draft.total == len({text.lower() for text, _ in tokens})
    if said is None:
        assert draft.warnings == ()
    else:
        (fault,) = draft.warnings
        path, _, more = said.partition("; ")
        assert fault.path == path
        assert "named before for another environment" in fault.message
        assert fault.message.endswith(more or "only there")


def test_a_token_says_where_it_belongs() -> None:
    entries = (
        {"platform": "apns", "token": "aa" * 32},
        {"platform": "apns", "token": "bb" * 32, "environment": "sandbox"},
        {"platform": "fcm", "token": "cc", "environment": "sandbox"},
        {"platform": "apns", "token": "dd" * 32, "environment": "production"},
        {"platform": "apns", "token": "bb" * 32},  # named twice is one delivery
    )
    draft = read(_tokens(*entries), _rules(table_of(BOTH)), 0)
    assert draft.total == 4
    assert draft.targets == {
        "apns": (Target(0, "aa" * 32), Target(3, "dd" * 32)),
        "apns_sandbox": (Target(1, "bb" * 32),),
        "fcm": (Target(2, "cc"),),
    }


def test_another_environment_is_a_fault() -> None:
    body = _tokens({"platform": "apns", "token": "aa" * 32, "environment": "staging"})
    with pytest.raises(InvalidRequest) as refused:
        read(body, _rules(table_of(BOTH)), 0)
    assert [(fault.path, fault.message) for fault in refused.value.faults] == [
        ("to.tokens[0].environment", 'expected one of "production", "sandbox", found "staging"')
    ]


def _push(messages: dict[Platform, Message], targets: dict[Platform, tuple[Target, ...]]) -> Push:
    return Push("p", "shop", "normal", 0, 1 << 50, messages, targets)


@pytest.mark.parametrize(
    ("accounts", "route", "lane", "platform"),
    [
        (("apns", "fcm"), "apns_sandbox", "apns", "apns"),
        (("fcm", "apns_sandbox"), "apns_production", "apns_sandbox", "apns"),
        (("fcm",), "apns", "fcm", "apns"),
    ],
)
def test_a_target_that_no_account_reaches_travels_in_the_lane_of_another(
    accounts: tuple[str, ...], route: str, lane: str, platform: str
) -> None:
    messages = {name: Message(platform_of(name), b"{}") for name in accounts}
    (chunk,) = split(_push(messages, {route: (Target(0, "aa"),)}), 10)
    assert (chunk.platform, chunk.message, chunk.unreachable) == (lane, Message(platform, b""), True)


async def test_they_end_as_failed_and_nothing_is_sent() -> None:
    store, provider = memory_store(), FakeProvider()
    mixed = msgspec.structs.replace(
        push("p", "t0"), targets={"apns": (Target(0, "t0"),), "apns_sandbox": (Target(1, "t1", "d1"),)}
    )
    await store.pushes.accept(mixed)
    provider.says = lambda delivery: Sent(status=200)
    async with working(store.queue, provider):
        assert await until_ended(store, "p") == {"total": 2, "sent": 1, "failed": 1}
    assert provider.tokens == ["t0"]
    found = await store.pushes.deliveries("shop", "p", outcome="failed", cursor="", limit=10)
    assert found is not None
    ((row,), _) = found
    assert (row.platform, row.device_id, row.reason, row.attempts) == ("apns", "d1", NO_ROUTE, 0)


@pytest.mark.parametrize("accounts", [BOTH, {"apns": "production"}], ids=["both", "one"])
async def test_what_waits_follows_the_environment_of_its_device(accounts: dict[Platform, Environment]) -> None:
    store, provider, other = memory_store(), FakeProvider(), FakeProvider(Route("shop", "apns_sandbox"))
    device = Device(id="d1", platform="apns", token="t0")
    await store.registry.put("shop", device)
    await store.pushes.accept(msgspec.structs.replace(push("p", ""), targets={"apns": (Target(0, "t0", "d1"),)}))
    await store.registry.put("shop", msgspec.structs.replace(device, environment="sandbox"))
    provider.says = other.says = lambda delivery: Sent(status=200)
    async with (
        working(store.queue, provider, accounts=accounts),
        working(store.queue, other, accounts=accounts),
    ):
        ended = await until_ended(store, "p")
    assert provider.tokens == []
    if accounts is BOTH:
        assert (ended, other.tokens) == ({"total": 1, "sent": 1}, ["t0"])
        return
    assert (ended, other.tokens) == ({"total": 1, "failed": 1}, [])
    found = await store.pushes.deliveries("shop", "p", outcome="failed", cursor="", limit=10)
    assert found is not None
    assert [(row.reason, row.attempts) for row in found[0]] == [(NO_ROUTE, 0)]


def test_two_accounts_of_one_environment_are_refused(tmp_path: Path) -> None:
    account = 'topic = "com.example"\ncert_file = "a.pem"\n'
    file = tmp_path / "pushsvc.toml"
    file.write_text(f'[apps.a.apns]\n{account}environment = "sandbox"\n[apps.a.apns_sandbox]\n{account}')
    with pytest.raises(ConfigError, match=r"\[apps.a.apns\] and \[apps.a.apns_sandbox\] are both for sandbox"):
        load(file, {}, providers={route: kind.config for route, kind in REGISTRY.items()})
    file.write_text(f"[apps.a.apns]\n{account}[apps.a.apns_sandbox]\n{account}")
    settings = load(file, {}, providers={route: kind.config for route, kind in REGISTRY.items()})
    assert settings.apps["a"].providers["apns_sandbox"].endpoint == "https://api.sandbox.push.apple.com"  # type: ignore[attr-defined]  # of APNs


def test_a_path_names_the_addresses_and_the_channels_in_their_order() -> None:
    assert path_name("apns", ("apns",)) == "apns"
    for route, channels in (("apns", ["live", "apns"]), ("apns_sandbox", ["live"]), ("fcm", ["fcm"])):
        assert path_of(path_name(route, channels)) == (route, channels)
    assert reachable("apns:live>apns", {"apns"})
    assert not reachable("apns:live", {"apns"})


@pytest.mark.parametrize(
    ("path", "known", "expected"),
    [
        ("apns", ("apns", "live"), ("apns", "", "apns", [], "apns")),
        ("live", ("apns", "live"), ("live", "live", "live", [], "live")),
        ("apns:live>apns", ("apns", "live"), ("live", "apns", "live", ["apns"], "apns")),
        ("apns:live>apns", ("apns",), ("apns", "apns", "apns", [], "apns")),
        ("apns:live", ("apns", "live"), ("live", "apns", "live", [], "apns")),
        # Nothing reaches it: it is queued where its end is recorded.
        ("apns:live", ("apns",), ("apns", "apns", "", [], "apns")),
    ],
)
@pytest.mark.parametrize("total", [2, 40])
def test_the_chunks_of_a_path(
    path: str, known: tuple[str, ...], expected: tuple[str, str, str, list[str], str], total: int
) -> None:
    of = Push(
        id="p",
        app="shop",
        lane="normal",
        created_at=0,
        expires_at=1,
        messages={name: Message(name, name.encode()) for name in known},
        targets={path: tuple(Target(index, f"{index:04x}") for index in range(total))},
    )
    (made,) = split(of, 1000)
    encoded = decode_chunk(encode_chunk(made))
    for chunk in (made, encoded):
        following = [each.channel for each in chunk.fallbacks]
        assert (chunk.channel, chunk.home, chunk.variant, following, chunk.platform) == expected
        assert chunk.targets == made.targets
    assert (encoded == made) is (total == 2 or not made.variant)  # a large one has its content beside the push
    variants = {made.variant, *expected[3]} - {""}
    assert set(contents_of(of, [made])) == (variants if total == 40 else set())
