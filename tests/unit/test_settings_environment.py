"""`PUSHSVC__..` over the file."""

# ruff: noqa: E501  # golden tables: one row a line is easier to read than none too long

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from msgspec import Struct, structs

from pushsvc.decoding import expected
from pushsvc.errors import ConfigError
from pushsvc.model.rates import Rate
from pushsvc.providers import REGISTRY
from pushsvc.runtime.configuration import configured_type, load_settings, misspelt_variables
from pushsvc.settings.environment import override
from pushsvc.settings.live import AppLive, LiveRule
from pushsvc.settings.loading import load
from pushsvc.settings.schema import KeySettings, LimitsSettings, Settings
from pushsvc.settings.webhook import WebhookSettings
from pushsvc.wording import TOML


class FakeApns(Struct, frozen=True, kw_only=True):
    key_id: str = ""
    window: int = 10
    share: float | None = None
    sandbox: bool = False


PROVIDERS: dict[str, type[Struct]] = {"apns": FakeApns}
CONFIGS: dict[str, type[Struct]] = {route: kind.config for route, kind in REGISTRY.items()}
HASH = "cd" * 32


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "pushsvc.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ, providers=PROVIDERS)


def refused(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, **environ)
    return str(caught.value)


def apns(settings: Settings, app: str) -> FakeApns:
    config = settings.apps[app].providers["apns"]
    assert isinstance(config, FakeApns)
    return config


def test_values_are_read_by_the_type_of_their_key(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "[server]\nport = 1",
        PUSHSVC__SERVER__PORT="9000",
        PUSHSVC__SERVER__HOST="8",
        PUSHSVC__RETRY__BASE="0.5",
        PUSHSVC__STORE__DATA_DIR="d",
        PUSHSVC__APPS__SHOP__APNS__SANDBOX="yes",
        PUSHSVC__APPS__SHOP__APNS__SHARE="0.25",
        PUSHSVC__APPS__SHOP__APNS__KEY_ID="0123",
        PUSHSVC__APPS__SHOP__LIMITS__INTAKE="5/s",
    )
    assert (settings.server.port, settings.server.host, settings.retry.base) == (9000, "8", 0.5)
    assert settings.store.data_dir == tmp_path / "d"
    assert apns(settings, "shop") == FakeApns(key_id="0123", sandbox=True, share=0.25)
    assert settings.apps["shop"].limits.intake == Rate(5, 1)


def test_a_dash_in_an_app_is_an_underscore_in_the_environment(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        "[apps.My-App.apns]\n[apps.my.apns]\n[apps.my__app_2.apns]",
        PUSHSVC__APPS__MY_APP__APNS__KEY_ID="dashed",
        PUSHSVC__APPS__MY__APNS__KEY_ID="short",
        PUSHSVC__APPS__MY__APP_2__APNS__KEY_ID="longest",
        PUSHSVC__APPS__NEW_ONE__APNS__KEY_ID="new",
    )
    assert {name: apns(settings, name).key_id for name in settings.apps} == {
        "My-App": "dashed",
        "my": "short",
        "my__app_2": "longest",
        "new_one": "new",
    }


def test_a_name_that_fits_two_apps_is_refused(tmp_path: Path) -> None:
    reported = refused(tmp_path, "[apps.a-b.apns]\n[apps.a_b.apns]", PUSHSVC__APPS__A_B__APNS__KEY_ID="x")
    assert reported == "PUSHSVC__APPS__A_B__APNS__KEY_ID: matches more than one app: a-b, a_b; set it in the file"


def test_lists_and_sections(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        f"[[apps.a.keys]]\nname = 'first'\nsha256 = '{HASH}'",
        PUSHSVC__APPS__A__KEYS__0__SCOPES="push, devices",
        PUSHSVC__APPS__A__KEYS__1__NAME="second",
        PUSHSVC__APPS__A__KEYS__1__SHA256="ef" * 32,
        PUSHSVC__APPS__A__KEYS__1__SCOPES='["admin"]',
        PUSHSVC__APPS__B__APNS='{"key_id": "whole", "window": 3}',
        PUSHSVC__APPS__B__APNS__WINDOW="4",
        PUSHSVC__APPS__C="{}",
        PUSHSVC__APPS__D__KEYS=f'[{{"name": "json", "sha256": "{"12" * 32}"}}]',
    )
    assert [(key.name, key.scopes) for key in settings.apps["a"].keys] == [
        ("first", ("push", "devices")),
        ("second", ("admin",)),
    ]
    assert apns(settings, "b") == FakeApns(key_id="whole", window=4)
    assert settings.apps["c"].providers == {}
    assert [key.name for key in settings.apps["d"].keys] == ["json"]


def test_entries_of_a_list_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    environ = {}
    for number in range(12):
        environ[f"PUSHSVC__APPS__A__KEYS__{number}__NAME"] = f"key{number}"
        environ[f"pushsvc__apps__a__keys__{number}__sha256"] = f"{number:064x}"
    keys = loaded(tmp_path, "", **environ).apps["a"].keys
    assert [(key.name, key.sha256) for key in keys] == [(f"key{number}", f"{number:064x}") for number in range(12)]


def test_a_section_comes_before_its_keys_in_any_case(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "", pushsvc__server='{"port": 1, "host": "::1"}', PUSHSVC__SERVER__PORT="2")
    assert (settings.server.host, settings.server.port) == ("::1", 2)


@pytest.mark.parametrize(
    "other",
    ["PUSHSVC__REDIS__URL", "pushsvc__redis__url", "PUSHSVC__REDIS__URL_FILE", "Pushsvc__Redis__Url__File"],
)
def test_a_key_is_set_in_place_of_every_other_variable_that_sets_it(tmp_path: Path, other: str) -> None:
    kept = {"PUSHSVC__REDIS": '{"shards": 2, "url": "redis://a"}', "URL_FILE": "y", "PUSHSVC_LIVE": "x", "file": "z"}
    environ = override({**kept, other: str(tmp_path / "none")}, {"PUSHSVC__REDIS__URL": "redis://b", "OWN": "1"})
    assert environ == {**kept, "PUSHSVC__REDIS__URL": "redis://b", "OWN": "1"}
    settings = loaded(tmp_path, "", **environ)
    assert (settings.redis.url, settings.redis.shards) == ("redis://b", 2)
    # The other way round, as a default under an environment.
    assert override({"PUSHSVC__REDIS__URL": "redis://b"}, {other: "c"}) == {other: "c"}


FAULTS = [
    ("PUSHSVC__SERVER__PROT", "1", "PUSHSVC__SERVER__PROT: no such key `server.prot`; did you mean `port`?"),
    ("PUSHSVC__SEVER__PORT", "1", "PUSHSVC__SEVER__PORT: no such key `sever`; did you mean `server`?"),
    ("PUSHSVC__SERVER__PORT__X", "1", "PUSHSVC__SERVER__PORT__X: `server.port` is a value and has no keys of its own"),
    ("PUSHSVC__SERVER__PORT", "x", 'server.port (from PUSHSVC__SERVER__PORT): expected a whole number from 0 to 65,535, found "x"'),
    ("PUSHSVC__SERVER__PROCESSES", "many", 'server.processes (from PUSHSVC__SERVER__PROCESSES): expected a whole number of at least 1, or "auto" for half of the cores, found "many"'),
    ("PUSHSVC__SERVER", "[1", "PUSHSVC__SERVER: expected a section as JSON: Input data was truncated"),
    ("PUSHSVC__SERVER", '{"port": "x"}', 'server.port (from PUSHSVC__SERVER): expected a whole number from 0 to 65,535, found "x"'),
    ("PUSHSVC__APPS__A__APNS__SANDBOX", "maybe", 'apps.a.apns.sandbox (from PUSHSVC__APPS__A__APNS__SANDBOX): expected true or false, found "maybe"'),
    ("PUSHSVC__APPS__A__KEYS__5__NAME", "x", "PUSHSVC__APPS__A__KEYS__5__NAME: expected a number from 0 to 0 after KEYS__, and then a key"),
    ("PUSHSVC__APPS__A__KEYS__0", "{}", "PUSHSVC__APPS__A__KEYS__0: expected a number from 0 to 0 after KEYS__, and then a key"),
    ("PUSHSVC__APPS__A__APSN__KEY_ID", "x", "PUSHSVC__APPS__A__APSN__KEY_ID: no such key `apps.a.apsn`; did you mean `apns`?"),
    ("PUSHSVC__FILE", "x", "PUSHSVC__FILE: no such key `file`; known: apps, cleanup, dispatch, feedback, jobs, live, logging, metrics, queue, redis, retry, server, store, traces"),
    ("PUSHSVC__APPS__A__WEBHOOK__SECRET__X", "hush", "PUSHSVC__APPS__A__WEBHOOK__SECRET__X: `apps.a.webhook.secret` is a value and has no keys of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "text", "error"), FAULTS, ids=[row[0] for row in FAULTS])
def test_a_fault_names_the_variable(tmp_path: Path, variable: str, text: str, error: str) -> None:
    assert refused(tmp_path, "", **{variable: text}) == error


def sections() -> list[tuple[str, Struct | type[Struct]]]:
    """Every section with its keys, by the variable that sets it."""
    defaults = configured_type()()
    top = [
        (name, getattr(defaults, name))
        for name in defaults.__struct_fields__
        if name not in ("apps", "file", "value_files")
    ]
    app: list[tuple[str, Struct | type[Struct]]] = [
        *(("limits", LimitsSettings()), ("webhook", WebhookSettings())),
        *(("live", AppLive), ("live__rules", LiveRule)),
    ]
    named = [
        *top,
        *((f"apps__a__{name}", section) for name, section in [*app, ("keys", KeySettings), *CONFIGS.items()]),
    ]
    return [(f"PUSHSVC__{name.upper()}", section) for name, section in named]


@pytest.mark.parametrize(("variable", "section"), sections())
def test_a_value_of_another_type_is_refused_at_every_key(
    tmp_path: Path, variable: str, section: Struct | type[Struct]
) -> None:
    """A null switches no limit off, and a number names no folder."""
    for field in structs.fields(section):
        kind = expected(field.type, TOML)
        for value in (None, {"a": 5}) if "number" in kind else (None, {"a": 5}, 5):
            given = {field.name: value}
            text = json.dumps([given] if variable.endswith(("KEYS", "RULES")) else given)
            with pytest.raises(ConfigError) as caught:
                load(None, {variable: text}, providers=CONFIGS, kind=configured_type())
            assert f".{field.name}" in str(caught.value)
            assert f" (from {variable}): " in str(caught.value)
            assert kind in str(caught.value) or value == {"a": 5}


def test_a_section_that_the_file_has_wrong_is_reported_once(tmp_path: Path) -> None:
    reported = refused(tmp_path, "server = 'x'", PUSHSVC__SERVER__PORT="1")
    assert reported.startswith('server: expected a section, found "x"')


def test_other_variables_are_left_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", PUSHSVC_URL="x", PUSHSVC_KEY="y", PUSHSVC="z", PATH="/bin").apps == {}


@pytest.mark.parametrize(
    ("variable", "right"),
    [
        ("PUSHSVC_SERVER_PORT", "PUSHSVC__SERVER__PORT"),
        ("PUSHSVC_SERVER__PORT", "PUSHSVC__SERVER__PORT"),
        ("pushsvc_server_port", "PUSHSVC__SERVER__PORT"),
        ("PUSHSVC_REDIS_URL_FILE", "PUSHSVC__REDIS__URL_FILE"),
        ("PUSHSVC_STORE__DATA__DIR", "PUSHSVC__STORE__DATA_DIR"),
        ("PUSHSVC_APPS_MY_SHOP_APNS_KEY_FILE", "PUSHSVC__APPS__MY_SHOP__APNS__KEY_FILE"),
        ("PUSHSVC_APPS__SHOP__KEYS_0__SHA256", "PUSHSVC__APPS__SHOP__KEYS__0__SHA256"),
        ("PUSHSVC_APPS__SHOP__LIVE__SECRET", "PUSHSVC__APPS__SHOP__LIVE__SECRET"),
        ("PUSHSVC_RETRY_APNS_5XX", "PUSHSVC__RETRY__APNS_5XX"),
        # What is read, and what other programs may have of this name.
        ("PUSHSVC__SERVER__PORT", ""),
        ("PUSHSVC_CONFIG", ""),
        ("PUSHSVC_URL", ""),
        ("PUSHSVC_KEY", ""),
        ("PUSHSVC_KEY_SHOP", ""),
        ("PUSHSVC_LIVE_SECRET", ""),
        ("PUSHSVC_VERSION", ""),
        ("PUSHSVC_SERVICE_HOST", ""),
        ("PUSHSVC_SERVER_PROT", ""),
        ("MY_PUSHSVC_SERVER_PORT", ""),
    ],
)
def test_a_variable_with_the_wrong_underscores_is_named_with_the_right_ones(variable: str, right: str) -> None:
    assert misspelt_variables({variable: "9"}) == ({variable: right} if right else {})
    if right:  # which is a key indeed, and the other one is left alone
        with pytest.raises(ConfigError, match=right):
            load_settings(None, {right: "/no/such/file" if right.endswith("URL_FILE") else "\0"})
    if not variable.startswith("PUSHSVC__"):
        assert load_settings(None, {variable: "\0"}) == load_settings(None, {})


def test_the_links_of_kubernetes_to_a_service_are_no_variables_of_ours() -> None:
    assert misspelt_variables({"PUSHSVC_SERVER_PORT": "tcp://10.0.0.7:8080"}) == {}


_names = st.lists(
    st.sampled_from(["SERVER", "PORT", "APPS", "A", "APNS", "KEY_ID", "KEYS", "0", "", "LIMITS", "É"]), max_size=6
)


@given(st.dictionaries(_names.map(lambda names: "PUSHSVC__" + "__".join(names)), st.text(max_size=8), max_size=4))
def test_any_environment_loads_or_is_refused(environ: dict[str, str]) -> None:
    """No environment makes anything but settings or a `ConfigError`."""
    try:
        settings = load(None, environ, providers=PROVIDERS)
    except ConfigError:
        return
    assert isinstance(settings, Settings)


# --- values in files --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["_FILE", "__FILE", "_file", "__File"])
def test_a_secret_may_stand_in_a_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "redis").write_text("redis://:pass@db:6379/0\n")
    (tmp_path / "secret").write_text("\ufeffwhsec_" + "QUJD" * 10 + "\r\n")
    (tmp_path / "port").write_text("9000")
    environ = {
        f"PUSHSVC__REDIS__URL{suffix}": str(tmp_path / "redis"),
        f"PUSHSVC__APPS__MY_APP__WEBHOOK__SECRET{suffix}": str(tmp_path / "secret"),
        f"PUSHSVC__APPS__MY_APP__KEYS__0__SHA256{suffix}": str(tmp_path / "hash"),
        f"PUSHSVC__SERVER__PORT{suffix}": str(tmp_path / "port"),
    }
    (tmp_path / "hash").write_text(HASH + "\n")
    text = '[apps.my-app.webhook]\nurl = "https://x/"\n[[apps.my-app.keys]]\nname = "n"\nsha256 = "' + "ab" * 32 + '"'
    settings = loaded(tmp_path, text, **environ)
    assert settings.redis.url == "redis://:pass@db:6379/0"
    assert settings.apps["my-app"].webhook.secret == "whsec_" + "QUJD" * 10
    assert settings.apps["my-app"].keys[0].sha256 == HASH
    assert settings.server.port == 9000


def test_keys_that_are_files_themselves_are_still_set(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path, '[apps.shop.webhook]\nurl = "https://x/"\nsecret = "whsec_' + "QUJD" * 10 + '"', PUSHSVC__APPS__SHOP__WEBHOOK__CA_FILE="/etc/ca.pem"
    )  # fmt: skip
    assert settings.apps["shop"].webhook.ca_file == "/etc/ca.pem"


def test_a_file_that_cannot_be_read_is_named_and_its_content_is_not(tmp_path: Path) -> None:
    reported = refused(tmp_path, "", PUSHSVC__REDIS__URL_FILE=str(tmp_path / "none"))
    assert "PUSHSVC__REDIS__URL_FILE" in reported
    assert f"{tmp_path}/none, which holds `redis.url`, cannot be read: No such file or directory" in reported
    (tmp_path / "latin").write_bytes(b"passw\xf6rd")
    assert "is not UTF-8 at byte 5" in refused(tmp_path, "", PUSHSVC__REDIS__URL_FILE=str(tmp_path / "latin"))
    (tmp_path / "secret").write_text("hunter2")
    reported = refused(
        tmp_path,
        '[apps.shop.webhook]\nurl = "https://x/"',
        PUSHSVC__APPS__SHOP__WEBHOOK__SECRET_FILE=str(tmp_path / "secret"),
    )
    assert "PUSHSVC__APPS__SHOP__WEBHOOK__SECRET_FILE" in reported
    assert "hunter2" not in reported


def test_a_value_that_is_set_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "redis").write_text("redis://a")
    reported = refused(tmp_path, "", PUSHSVC__REDIS__URL="redis://b", PUSHSVC__REDIS__URL_FILE=str(tmp_path / "redis"))
    assert "sets `redis.url`, as PUSHSVC__REDIS__URL does: leave one of them out" in reported
