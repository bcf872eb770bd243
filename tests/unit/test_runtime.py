"""The composition root: what the configuration says reaches the parts, value by value."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pushsvc.api.config import ApiApp, ApiLive
from pushsvc.errors import ConfigError, CredentialError
from pushsvc.live.config import LiveAppConfig
from pushsvc.live.protocol.tokens import Claims, Verifier
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.model.access import ApiKey
from pushsvc.model.finding import Finding
from pushsvc.model.live import endpoints_of
from pushsvc.model.push import Lane, Route
from pushsvc.model.routing import table_of
from pushsvc.ports.figures import AppGauges, Gauges
from pushsvc.ports.provider import Provider
from pushsvc.ports.store import Store
from pushsvc.ports.webhooks import Standing
from pushsvc.providers import REGISTRY as PROVIDERS
from pushsvc.rules.channels import NO_LIVE, ChannelRule, ChannelRules
from pushsvc.rules.freeze import FreezePolicy
from pushsvc.rules.policy import PrunePolicy, RetryPolicy
from pushsvc.runtime import accounts, providers as runtime_providers
from pushsvc.runtime.configuration import configured_type, load_settings
from pushsvc.runtime.live import fitting, sockets_config
from pushsvc.runtime.parts import quiet_gc
from pushsvc.runtime.plans import (
    ages,
    api_apps,
    channel_rules,
    dispatch_config,
    feedback_config,
    retry_policy,
    route_limits,
    routes_of,
)
from pushsvc.runtime.providers import check_credentials
from pushsvc.runtime.state.app_stats import lanes_of
from pushsvc.runtime.state.figures import show_frozen, show_gauges, show_webhooks
from pushsvc.runtime.store import store_config
from pushsvc.settings.live import LiveSettings
from pushsvc.settings.schema import CleanupSettings, RetrySettings, Settings
from pushsvc.stages.cleanup import Ages
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.stages.feedback import FeedbackConfig
from pushsvc.store import StoreConfig

SHA = "ab" * 32
CONFIG = """
[store]
data_dir = "data"
[redis]
shards = 4
[dispatch]
chunk = 250
drain_timeout = 3.5
takeover = 9.0
[queue]
status_retention = 11
dead_letter_retention = 12
dead_letters_max = 15
suppression_retention = 13
feedback_retention = 14
[retry]
attempts = 5
base = 2.0
cap = 60.0
apns_5xx = 30.0
fcm_5xx = 3.0
fcm_429 = 6.0
[[apps.shop.keys]]
name = "backend"
sha256 = "{sha}"
scopes = ["push", "feedback"]
[apps.shop.apns]
key_file = "key.p8"
key_id = "KEY1234567"
team_id = "TEAM123456"
topic = "com.example.shop"
[apps.news.fcm]
service_account_file = "account.json"
"""


def load(tmp_path: Path, text: str = CONFIG, **environ: str) -> Settings:
    file = tmp_path / "pushsvc.toml"
    file.write_text(text.replace("{sha}", SHA))
    return load_settings(file, environ)


# --- the mappings -----------------------------------------------------------------------------------


def test_every_rule_of_the_configuration_reaches_policy(tmp_path: Path) -> None:
    assert retry_policy(load(tmp_path).retry) == RetryPolicy(
        attempts=5,
        base=2.0,
        cap=60.0,
        server_error={"apns": 30.0, "fcm": 3.0},
        silent={"fcm": 3.0},
        throttled={"fcm": 6.0},
    )


def test_without_configuration_the_waits_and_ages_are_the_vendors() -> None:
    vendors = RetryPolicy(server_error={"apns": 900.0, "fcm": 10.0}, silent={"fcm": 10.0}, throttled={"fcm": 60.0})
    for settings in (RetrySettings(), configured_type()().retry):
        assert retry_policy(settings) == vendors
    assert ages(CleanupSettings()) == Ages(stale={"fcm": 270 * 86400.0})


def test_a_configuration_that_is_read_again_is_the_same(tmp_path: Path) -> None:
    assert load(tmp_path) == load(tmp_path)


def test_every_rule_of_the_configuration_reaches_feedback(tmp_path: Path) -> None:
    text = """
    [feedback]
    strikes = 4
    strike_span = 100.0
    strike_memory = 200.0
    freeze_window = 30.0
    freeze_dead = 0.4
    freeze_dead_answers = 41
    freeze_suspect = 0.3
    freeze_suspect_answers = 31
    prune_anyway = { "shop/apns" = 1970-01-01T00:00:07Z }
    """
    assert feedback_config(load(tmp_path, CONFIG + text)) == FeedbackConfig(
        prune=PrunePolicy(strikes=4, strike_span=100.0, strike_memory=200.0),
        freeze=FreezePolicy(window=30.0, dead=0.4, dead_answers=41, suspect=0.3, suspect_answers=31),
        prune_anyway={Route("shop", "apns"): 7000},
        environments={Route("shop", "apns"): "production"},
    )


def test_the_defaults_of_configuration_and_feedback_agree() -> None:
    assert feedback_config(Settings()) == FeedbackConfig()


def test_the_alarm_of_each_route_is_set_and_taken_back(tmp_path: Path) -> None:
    settings = load(tmp_path)

    def alarms() -> list[float | None]:
        routes = ({"app": "shop", "platform": "apns"}, {"app": "news", "platform": "fcm"})
        return [REGISTRY.get_sample_value("pushsvc_pruning_frozen", labels) for labels in routes]

    show_frozen(settings, {"shop/apns": "300 of 300 answers within 10 s were `dead`"})
    assert alarms() == [1, 0]
    show_frozen(settings, {})
    assert alarms() == [0, 0]


def test_the_dispatcher_gets_its_times(tmp_path: Path) -> None:
    settings = load(tmp_path)
    config = dispatch_config(settings)
    assert config.retry == retry_policy(settings.retry)
    assert config.drain_timeout == 3.5
    # Several signs of life, and a look for the dead, fit into the time after which one counts as dead.
    assert 0 < config.beat_every <= 9.0 / 3
    assert 0 < config.reclaim_every <= 9.0


async def test_providers_get_the_clock_by_which_pushes_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of the store: by the wrong clock of a machine a push would live for too long, or not at all."""
    clocks: dict[str, float] = {}

    @asynccontextmanager
    async def open_provider(route: Route, config: Any, **given: Any) -> AsyncIterator[Provider]:
        clocks[route.name] = given["ttl_clock"]()
        yield cast(Provider, None)

    kinds = {name: replace(kind, open_provider=open_provider) for name, kind in PROVIDERS.items()}
    monkeypatch.setattr(accounts, "REGISTRY", kinds)
    monkeypatch.setattr(accounts, "expiry_of", lambda *_: None)

    store = cast(Store, SimpleNamespace(seconds=lambda: 7.5))
    async with accounts.Accounts(store, request_timeout=1.0) as own:
        await own.open_all(load(tmp_path).apps)
    assert clocks == {"shop/apns": 7.5, "news/fcm": 7.5}


async def test_an_account_that_fails_in_any_way_holds_its_route_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def open_provider(route: Route, config: Any, **given: Any) -> AsyncIterator[Provider]:
        if route.app == "shop":
            raise ZeroDivisionError("hunter" + "22")
        yield cast(Provider, SimpleNamespace(trouble="", aclose=None))

    def check(config: Any) -> list[Finding]:
        raise ZeroDivisionError("hunter" + "22")

    kinds = {name: replace(kind, open_provider=open_provider, check=check) for name, kind in PROVIDERS.items()}
    monkeypatch.setattr(accounts, "REGISTRY", kinds)
    monkeypatch.setattr(runtime_providers, "REGISTRY", kinds)

    store = cast(Store, SimpleNamespace(seconds=lambda: 7.5))
    with capture_logs() as logs:
        async with accounts.Accounts(store, request_timeout=1.0) as own:
            await own.open_all(load(tmp_path).apps)
            shop, news = own.providers
        found = list(check_credentials(load(tmp_path)))
    assert shop.trouble.startswith("credential: apps.shop.apns: an unexpected ZeroDivisionError")
    assert news.trouble == ""
    assert [(part, finding.level) for part, finding in found] == [
        ("apps.shop.apns", "error"),
        ("apps.news.fcm", "error"),
    ]
    assert any(line["event"] == "account_failed" and "open_provider" in line["where"] for line in logs)
    assert "hunter22" not in str(logs)


class Routes:
    """Takes the place of a dispatcher."""

    def __init__(self) -> None:
        self.notes: dict[Route, str] = {}
        self.providers: dict[Route, Provider] = {}

    def replace(self, provider: Provider) -> None:
        self.providers[provider.route] = provider


async def test_an_account_is_tried_again_without_a_change_of_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of file descriptors passes, and so does a stale mount."""
    fault: list[int] = [errno.EMFILE]
    tried: list[Route] = []

    @asynccontextmanager
    async def open_provider(route: Route, config: Any, **given: Any) -> AsyncIterator[Provider]:
        tried.append(route)
        if fault:
            raise CredentialError(route.name, f"cannot be read: {os.strerror(fault[0])}")
        yield cast(Provider, SimpleNamespace(route=route, trouble=""))

    kinds = {name: replace(kind, open_provider=open_provider) for name, kind in PROVIDERS.items()}
    monkeypatch.setattr(accounts, "REGISTRY", kinds)
    monkeypatch.setattr(accounts, "expiry_of", lambda *_: None)
    apps, routes = load(tmp_path).apps, Routes()
    shop, dispatcher = Route("shop", "apns"), cast(Dispatcher, routes)

    def troubles() -> list[str]:
        return [provider.trouble for provider in own.providers]

    async with accounts.Accounts(cast(Store, SimpleNamespace(seconds=lambda: 7.5)), request_timeout=1.0) as own:
        with capture_logs() as logs:
            await own.open_all(apps)
            for _ in range(3):
                assert not await own.try_refused(apps, dispatcher)
            assert [line["event"] for line in logs] == ["account_refused"] * 2, "once for each account"
            fault[:] = [errno.EIO]
            await own.follow(apps, dispatcher, {})
            assert [os.strerror(errno.EIO) in line["error"] for line in logs] == [False] * 2 + [True] * 2
        assert all(os.strerror(errno.EIO) in trouble for trouble in troubles())
        fault.clear()
        assert await own.try_refused(apps, dispatcher)
        assert troubles() == ["", ""]
        assert [*routes.providers.values()] == own.providers

        # An account that could not be replaced.
        (tmp_path / "key.p8").write_text("another")
        fault[:] = [errno.EMFILE]
        await own.follow(apps, dispatcher, {})
        before = routes.providers[shop]
        assert "sends by its earlier account" in routes.notes[shop]
        fault.clear()
        tried.clear()
        assert await own.try_refused(apps, dispatcher)
        assert not await own.try_refused(apps, dispatcher)
        assert (tried, routes.notes) == ([shop], {})
        assert routes.providers[shop] is not before


def test_every_bound_of_the_configuration_reaches_the_store(tmp_path: Path) -> None:
    config = store_config(load(tmp_path))
    assert config.addresses.platforms == ("apns", "fcm", "live")
    assert config == StoreConfig(
        shards=4,
        chunk_size=250,
        status_ttl=11,
        dead_ttl=12,
        dead_max=15,
        suppression_ttl=13,
        events_ttl=14,
        alive_ttl=9.0,
        addresses=config.addresses,
        history={},
        window={},
        history_age={},
    )


def test_the_defaults_of_configuration_and_store_agree() -> None:
    config = store_config(Settings())
    assert config == StoreConfig(addresses=config.addresses, history={}, window={}, history_age={})


def test_intake_knows_each_app_its_platforms_and_its_keys(tmp_path: Path) -> None:
    assert api_apps(load(tmp_path)) == {
        "shop": ApiApp(
            name="shop",
            accounts=frozenset({"apns"}),
            keys=(ApiKey(name="backend", app="shop", sha256=SHA, scopes=("push", "feedback")),),
            routes=table_of({"apns": "production"}),
        ),
        "news": ApiApp(name="news", accounts=frozenset({"fcm"}), keys=()),
    }


def test_a_live_channel_is_a_route_like_any_other(tmp_path: Path) -> None:
    text = f"""
    [apps.shop.live]
    secret = "{SHA}"
    order = "provider, live"
    [[apps.shop.live.rules]]
    where = "platform == 'apns'"
    order = "live"
    [apps.only.live]
    secret = "{SHA[::-1]}"
    """
    settings = load(tmp_path, CONFIG + text)
    settings.require_apps()
    assert [route.name for route in routes_of(settings)] == ["shop/apns", "shop/live", "news/fcm", "only/live"]
    apps = api_apps(settings)
    assert apps["shop"].channels == ChannelRules("provider, live", (ChannelRule("platform == 'apns'", "live"),))
    assert apps["only"].channels == ChannelRules("live, provider")
    assert apps["news"].channels == NO_LIVE == channel_rules(settings, "gone")
    assert apps["shop"].accounts == frozenset({"apns", "live"})
    assert apps["only"].platforms == frozenset({"live"})
    limits = route_limits(settings.apps)
    assert limits[Route("shop", "live")].per_token == limits[Route("shop", "apns")].per_token


def test_intake_signs_tokens_where_the_app_has_a_secret(tmp_path: Path) -> None:
    text = """
    [live]
    endpoints = ["wss://push.example"]
    [apps.shop.live]
    secret = "%s"
    token_ttl = 600
    [apps.news.live]
    public_key_file = "key.pem"
    """
    apps = api_apps(load(tmp_path, CONFIG + text % SHA))
    shop, news = apps["shop"].live, apps["news"].live
    assert shop is not None
    assert shop.sign is not None
    claims = Verifier({"shop": LiveAppConfig(secret=SHA)}).verify(shop.sign("phone", 7.0, 60, "id"), 8.0)
    assert claims == Claims("shop", "phone", 67, 7000, "id")
    assert SHA not in repr(shop)
    endpoints = endpoints_of("wss://push.example")
    assert (shop.token_ttl, shop.endpoints, news) == (600, endpoints, ApiLive(86400, None, endpoints, 604_800))


def test_each_platform_reads_its_own_section(tmp_path: Path) -> None:
    settings = load(tmp_path, PUSHSVC__APPS__SHOP__APNS__TOPIC="com.example.other")
    apns = settings.apps["shop"].providers["apns"]
    fcm = settings.apps["news"].providers["fcm"]
    assert type(apns) is PROVIDERS["apns"].config
    assert type(fcm) is PROVIDERS["fcm"].config
    assert apns.topic == "com.example.other"  # type: ignore[attr-defined]  # it is the provider's own struct
    assert fcm.service_account_file == str(tmp_path / "account.json")  # type: ignore[attr-defined]  # as above


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"retry\.attempts"):
        load(tmp_path, CONFIG.replace("attempts = 5", 'attempts = "many"'))
    with pytest.raises(ConfigError, match="no app"):
        load(tmp_path, "").require_apps()


# --- gauges -----------------------------------------------------------------------------------------


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_figures_of_redis_become_metrics() -> None:
    def figures(dead: int, retries: int, waiting: int, scheduled: int) -> AppGauges:
        lanes: dict[Lane, int] = {"urgent": 1, "normal": waiting, "bulk": 0}
        return AppGauges(
            pending={"apns": lanes, "fcm": dict.fromkeys(lanes, 1)},
            retry_pending={"apns": retries},
            ack_pending={"apns": retries + 1},
            scheduled=scheduled,
            suppressed={},
            dead_letters=dead,
            receipts=0,
            events=0,
            quarantined=0,
            by_shard=[],
        )

    gauges = Gauges(apps={"runtime-a": figures(3, 4, 10, 7), "runtime-b": figures(0, 1, 20, 0)})
    show_gauges(gauges)
    assert {lane: value("pushsvc_queue_pending", lane=lane) for lane in gauges.pending} == gauges.pending
    assert gauges.pending == {"urgent": 4, "normal": 32, "bulk": 2}
    assert value("pushsvc_retry_pending") == 5
    assert value("pushsvc_live_waiting") == 7
    assert value("pushsvc_dead_letters", app="runtime-a") == 3
    assert value("pushsvc_dead_letters", app="runtime-b") == 0
    assert value("pushsvc_scheduled", app="runtime-a") == 7
    assert value("pushsvc_scheduled", app="runtime-b") == 0
    show_gauges(Gauges(apps={"runtime-a": figures(3, 4, 10, 7)}))
    assert value("pushsvc_scheduled", app="runtime-a") == 7
    assert value("pushsvc_scheduled", app="runtime-b") is None, "an app that is gone has no series"
    assert value("pushsvc_dead_letters", app="runtime-b") is None


def test_the_age_of_a_lane_is_that_of_its_oldest_delivery() -> None:
    none: dict[Any, Any] = {}
    waits: dict[Lane, int] = {"urgent": 0, "normal": 3, "bulk": 2}
    app = AppGauges({"apns": waits}, none, none, 0, none, 0, 0, 0, 0, [], {"normal": 542.0})
    found = {lane.lane: (lane.waiting, lane.oldest_age) for lane in lanes_of(app, {}, 100)}
    assert found == {"urgent": (0, None), "normal": (3, 542.0), "bulk": (2, None)}


def test_a_webhook_that_is_gone_has_no_series() -> None:
    standing = Standing(waiting_since=0, dead=2)
    show_webhooks({"runtime-a": standing, "runtime-b": standing})
    assert value("pushsvc_webhook_dead_batches", app="runtime-b") == 2
    show_webhooks({"runtime-a": standing})
    assert value("pushsvc_webhook_dead_batches", app="runtime-a") == 2
    assert value("pushsvc_webhook_dead_batches", app="runtime-b") is None
    assert value("pushsvc_webhook_lag_seconds", app="runtime-b") is None


# --- the process ------------------------------------------------------------------------------------


@pytest.fixture
def _collector_as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


@pytest.mark.usefixtures("_collector_as_before")
def test_the_collector_looks_seldom_and_is_not_switched_off() -> None:
    quiet_gc()
    assert gc.isenabled()
    assert gc.get_threshold()[0] > 10_000


def test_a_gateway_takes_the_whole_of_its_configuration_and_no_more_connections_than_files() -> None:
    live = LiveSettings(
        host="h",
        port=7,
        processes=2,
        max_connections=900,
        allowed_origins=("*",),
        deny=("10.0.0.0/8",),
        proxies=("::1",),
    )
    assert sockets_config(live, "gate") == SocketsConfig(
        host="h",
        port=7,
        reuse_port=True,
        node="gate",
        max_connections=900,
        allowed_origins=("*",),
        proxies=(ip_network("::1"),),
        deny_networks=(ip_network("10.0.0.0/8"),),
    )
    assert sockets_config(LiveSettings(), "") == SocketsConfig(strangers=6250)
    assert fitting(live, 2**20) == live
    assert fitting(live, 1024).max_connections == 732
    assert fitting(live, 16).max_connections == 1
