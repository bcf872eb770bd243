"""The configuration: what loads, and what each fault is called."""

# ruff: noqa: E501  # golden tables: one row a line is easier to read than none too long

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from msgspec import Struct, structs

from pushsvc.errors import ConfigError
from pushsvc.model.rates import Rate, parse_rate
from pushsvc.providers import REGISTRY
from pushsvc.runtime.configuration import configured_type, load_settings
from pushsvc.runtime.live import sockets_config
from pushsvc.runtime.plans import api_config
from pushsvc.settings import processes
from pushsvc.settings.live import AppLive
from pushsvc.settings.loading import load
from pushsvc.settings.processes import cores, quota
from pushsvc.settings.schema import LimitsSettings, RedisSettings, Settings
from pushsvc.settings.webhook import WebhookSettings

EXAMPLE = Path(__file__).parents[2] / "config" / "example.toml"


class FakeApns(Struct, frozen=True, kw_only=True):
    """As a provider would declare its section."""

    key_id: str
    key_file: str = ""
    window: int = 10

    def __post_init__(self) -> None:
        if self.key_id == "bad":
            raise ValueError("key_id: not known at Apple")


PROVIDERS: dict[str, type[Struct]] = {"apns": FakeApns}
HASH = "ab" * 32
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def written(folder: Path, text: str) -> Path:
    file = folder / "pushsvc.toml"
    file.write_text(text, encoding="utf-8")
    return file


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    return load(written(folder, text), environ, providers=PROVIDERS)


def refused(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, **environ)
    return str(caught.value)


def test_nothing_at_all_is_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {"HOME": "/root", "PUSHSVC_CONFIG": "ignored here"}, providers=PROVIDERS)
    assert settings == Settings(store=structs.replace(settings.store, data_dir=tmp_path / "var"))
    assert settings.server.port == 8080
    assert settings.apps == {}


def test_serving_needs_an_app_with_a_channel(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^apps: .*pushsvc\.toml names no app \(add a section \[apps\.NAME\], as `pushsvc init`"
    ):
        loaded(tmp_path, "").require_apps()
    with pytest.raises(
        ConfigError, match=r"^apps\.shop: the app has no provider and no live channel \(add \[apps\.shop\.apns\]"
    ):
        loaded(tmp_path, "[apps.shop]").require_apps()
    loaded(tmp_path, '[apps.shop.apns]\nkey_id = "K"').require_apps()
    loaded(tmp_path, f'[apps.shop.live]\nsecret = "{HASH}"').require_apps()


def test_a_push_cannot_wait_for_a_flush_that_is_never_made(tmp_path: Path) -> None:
    never = '[store]\nfsync = "no"\n[queue]\ndurability = "fsync"\n'
    with pytest.raises(ConfigError, match=r'^queue\.durability: "fsync" waits for the disk'):
        loaded(tmp_path, never)
    assert loaded(tmp_path, never + '[redis]\nurl = "redis://elsewhere"').queue.durability == "fsync"


def test_a_whole_app(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        f"""
        [store]
        data_dir = "data"
        [apps.shop]
        [[apps.shop.keys]]
        name = "backend"
        sha256 = "{HASH}"
        scopes = ["push", "devices"]
        [apps.shop.apns]
        key_id = "K"
        key_file = "keys/a.p8"
        [apps.shop.limits]
        per_app = "500/10s"
        per_token = "0"
        on_exceed = "drop"
        [apps.shop.webhook]
        url = "https://example.com/hook"
        secret = "{SECRET}"
        ca_file = "hook-ca.pem"
        headers.Authorization = "Bearer hunter22"
        """,
    )
    app = settings.apps["shop"]
    assert app.name == "shop"
    assert [(key.name, key.sha256, key.scopes) for key in app.keys] == [("backend", HASH, ("push", "devices"))]
    assert app.providers == {"apns": FakeApns(key_id="K", key_file=str(tmp_path / "keys" / "a.p8"))}
    assert app.limits == LimitsSettings(per_token=None, per_app=Rate(500, 10), intake=None, on_exceed="drop")
    assert app.webhook == WebhookSettings(
        url="https://example.com/hook",
        secret=SECRET,
        ca_file=str(tmp_path / "hook-ca.pem"),
        headers={"Authorization": "Bearer hunter22"},
    )
    assert settings.store.data_dir == tmp_path / "data"
    assert settings.file == tmp_path / "pushsvc.toml"
    assert SECRET not in repr(settings)
    assert "example.com/hook" not in repr(settings)
    assert "hunter22" not in repr(settings)


def test_paths_absolute_home_and_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    def key_file(text: str) -> str:
        app = loaded(tmp_path, f'[apps.a.apns]\nkey_id = "K"\nkey_file = "{text}"').apps["a"]
        config = app.providers["apns"]
        assert isinstance(config, FakeApns)
        return config.key_file

    assert key_file("/etc/a.p8") == "/etc/a.p8"
    assert key_file("~/a.p8") == "/home/me/a.p8"
    assert key_file("") == ""


FAULTS = [
    # (TOML, the whole error text less the folder of the file)
    ("[server]\nprot = 1", "server.prot: unknown key; did you mean `port`? (in FILE)"),
    ("[server]\nport = '80'", "server.port: expected a whole number from 0 to 65,535, found \"80\" (in FILE)"),
    ("[server]\nport = 70000", "server.port: expected a whole number from 0 to 65,535, found the number 70000 (in FILE)"),
    ("[server]\nport = true", "server.port: expected a whole number from 0 to 65,535, found true (in FILE)"),
    ("[dispatch]\nprocesses = 'many'", "dispatch.processes: expected a whole number of at least 1, or \"auto\" for half of the cores, found \"many\" (in FILE)"),
    ("[jobs]\nprocesses = 1.5", "jobs.processes: expected a whole number of at least 1, or \"auto\" for half of the cores, found the number 1.5 (in FILE)"),
    ("[server]\nprocesses = true", "server.processes: expected a whole number of at least 1, or \"auto\" for half of the cores, found true (in FILE)"),
    ("[server]\nprocesses = 1000000000001", "server.processes: must be at most 1,000,000,000,000 (in FILE)"),
    ("server = 1", "server: expected a section, found the number 1 (in FILE)"),
    ("[servers]", "servers: unknown section; did you mean `server`? (in FILE)"),
    (
        "[zzz]",
        "zzz: unknown section; known: apps, cleanup, dispatch, feedback, jobs, live, logging, metrics, queue, redis, retry, server, store, traces (in FILE)",
    ),
    (
        "[logging]\nlevel = 'loud'",
        'logging.level: expected one of "debug", "info", "warning", "error", "critical", found "loud" (in FILE)',
    ),
    ("[retry]\ncap = 0", "retry.cap: expected a number greater than 0, found the number 0 (in FILE)"),
    ("[retry]\ncap = inf\n", "retry.cap: must be at most 3,153,600,000, which is 100 years (in FILE)"),
    ("[dispatch]\ntakeover = 1e300\n", "dispatch.takeover: must be at most 3,153,600,000, which is 100 years (in FILE)"),
    ("[queue]\nstatus_retention = 9223372036854775807\n", "queue.status_retention: must be at most 3,153,600,000, which is 100 years (in FILE)"),
    ("[queue]\ndead_letters_max = 9223372036854775808\n", "queue.dead_letters_max: must be at most 1,000,000,000,000 (in FILE)"),
    ("[retry]\nbase = nan\n", "retry.base: expected a number greater than 0, found the number nan (in FILE)"),
    ("[retry]\nbase = 9\ncap = 3", "retry.base: must not be greater than `cap` (in FILE)"),
    ("[dispatch]\nchunk = 0", "dispatch.chunk: expected a whole number from 1 to 5,000, found the number 0 (in FILE)"),
    (
        "[redis]\nurl = 'http://me:hunter22@host'",
        "redis.url: is not the URL of a Redis; write redis://localhost:6379/0, or begin with redis://, rediss://, "
        "unix://, redis+sentinel://, rediss+sentinel://, redis+cluster://, rediss+cluster:// (in FILE)",
    ),
    (
        "[jobs]\nurl = 'localhost:6379'",
        "jobs.url: is not the URL of a Redis; write redis://localhost:6379/0, or begin with redis://, rediss://, "
        "unix://, redis+sentinel://, rediss+sentinel:// (in FILE)",
    ),
    (
        "[redis]\nurl = 'redis://:sec/ret@host'\n[jobs]\nurl = 'redis://host?ssl_cert_reqs=none'",
        "FILE: 2 faults\n  redis.url: holds an unescaped character of a user or password; percent-encode them: @ as %40, "
        "/ as %2F, # as %23, ? as %3F, : as %3A, % as %25\n  jobs.url: the option ssl_cert_reqs is of TLS; begin with "
        "rediss://",
    ),
    ("apps = 3", "apps: expected sections [apps.NAME], found the number 3 (in FILE)"),
    (
        "[apps.'a b']",
        "apps.a b: expected 1 to 64 letters, digits, `-` or `_`, beginning with a letter or digit, found \"a b\" (in FILE)",
    ),
    ("[apps.a]\napsn = 1", "apps.a.apsn: unknown key; did you mean `apns`? (in FILE)"),
    ("[apps.a.apns]", "apps.a.apns.key_id: is missing: expected a string (in FILE)"),
    ("[apps.a.apns]\nkey_id = 'bad'", "apps.a.apns.key_id: not known at Apple (in FILE)"),
    ("[apps.a.apns]\nkey_id = 'K'\nkey_fil = ''", "apps.a.apns.key_fil: unknown key; did you mean `key_file`? (in FILE)"),
    ("[apps.a]\nkeys = 'x'", "apps.a.keys: expected a list, found a string (in FILE)"),
    (
        "[[apps.a.keys]]\nname = 'k'\nsha256 = 'my-real-key'",
        "apps.a.keys[0].sha256: expected 64 lower-case hex digits: the SHA-256 of the key's text, as `pushsvc keys new` "
        "shows it, found a string (in FILE)",
    ),
    (
        f"[[apps.a.keys]]\nname = 'k'\nsha256 = '{HASH}'\nscopes = ['push', 'root']",
        'apps.a.keys[0].scopes[1]: expected one of "push", "devices", "feedback", "admin", found "root" (in FILE)',
    ),
    (
        f"[[apps.a.keys]]\nname = 'k'\nsha256 = '{HASH}'\n[[apps.b.keys]]\nname = 'k'\nsha256 = '{HASH}'",
        "apps.b.keys[0].sha256: the same key as apps.a.keys[0]; each key belongs to one app, once (in FILE)",
    ),
    (
        "[apps.a.limits]\nper_app = 'fast'",
        "apps.a.limits.per_app: expected a rate such as `240/min`, `10/s`, `500/10s` (units s, min, h, day), or `0` for "
        "no limit, found \"fast\" (in FILE)",
    ),
    ("[feedback]\nfreeze_dead = 1.5", "feedback.freeze_dead: expected a number from 0 to 1, found the number 1.5 (in FILE)"),
    (
        "[feedback]\nstrike_memory = 43199",
        "feedback.strike_memory: must not be shorter than `strike_span` / (`strikes` - 1): no device would have two strikes (in FILE)",
    ),
    (
        "[apps.a.apns]\nkey_id = 'K'\n[feedback.prune_anyway]\n'a/apns' = '2026-12-01'",
        "feedback.prune_anyway[\"a/apns\"]: expected an instant such as 2026-12-01T09:00:00Z, found \"2026-12-01\" (in FILE)",
    ),
    (
        "[feedback.prune_anyway]\n'a/apsn' = 2026-12-01T09:00:00Z\n[apps.a.apns]\nkey_id = 'K'",
        "feedback.prune_anyway[\"a/apsn\"]: no such route; did you mean `a/apns`? (in FILE)",
    ),
    (f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'ftp://x'", "apps.a.webhook.url: expected empty, http:// or https:// (in FILE)"),
    (f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'https:///x'", "apps.a.webhook.url: expected https://host/path (in FILE)"),
    (f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'https://x y/'", "apps.a.webhook.url: expected https://host/path (in FILE)"),
    (f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'https://x:y/'", "apps.a.webhook.url: expected https://host/path (in FILE)"),
    (
        f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'https://me:hunter22@x/'",
        "apps.a.webhook.url: expected no user, password or fragment in it; the signature authenticates the call (in FILE)",
    ),
    (
        f"[apps.a.webhook]\nsecret = '{SECRET}'\nurl = 'http://x/'",
        "apps.a.webhook.url: expected https://; http:// only with `allow_private` (in FILE)",
    ),
    (
        "[apps.a.webhook]\nurl = 'https://x/'",
        "apps.a.webhook.secret: needed to sign the calls to `url`; `pushsvc webhooks secret` makes one (in FILE)",
    ),
    (
        "[apps.a.webhook]\nsecret = 'hunter22'",
        "apps.a.webhook.secret: expected `whsec_` and the base64 of 24 to 64 random bytes, as `pushsvc webhooks secret` "
        "makes (in FILE)",
    ),
    (
        f"[apps.a.webhook]\nsecret = '{SECRET}'\nold_secret = 'whsec_x'",
        "apps.a.webhook.old_secret: expected `whsec_` and the base64 of 24 to 64 random bytes, as `pushsvc webhooks "
        "secret` makes (in FILE)",
    ),
    (
        "[apps.a.webhook]\ntimeout = 31.0",
        "apps.a.webhook.timeout: expected a number greater than 0 and of at most 30, found the number 31.0 (in FILE)",
    ),
    (
        "[apps.a.webhook]\nkinds = []",
        "apps.a.webhook.kinds: expected `feedback`, `event` or both; an empty `url` switches the webhook off (in FILE)",
    ),
    ("[apps.a.webhook]\nbatch = 0", "apps.a.webhook.batch: expected a whole number from 1 to 1,000, found the number 0 (in FILE)"),
    ("[apps.a.webhook]\nbase = 9\ncap = 3", "apps.a.webhook.base: must not be greater than `cap` (in FILE)"),
    (
        "[apps.a.webhook.headers]\n'X Key' = 'hunter22'",
        "apps.a.webhook.headers: expected names of letters, digits and dashes, such as `Authorization` (in FILE)",
    ),
    (
        "[apps.a.webhook.headers]\nWebhook-Signature = 'hunter22'",
        "apps.a.webhook.headers: `Webhook-Signature` is set by pushsvc itself; leave it out (in FILE)",
    ),
    (
        "[apps.a.webhook.headers]\ncontent-TYPE = 'hunter22'",
        "apps.a.webhook.headers: `content-TYPE` is set by pushsvc itself; leave it out (in FILE)",
    ),
    (
        "[apps.a.webhook.headers]\nX-Key = 'hunter22'\nx-key = 'hunter22'",
        "apps.a.webhook.headers: `x-key` is given twice; upper and lower case are the same (in FILE)",
    ),
    (
        "[apps.a.webhook.headers]\nX-Key = \"hunter22\\r\\nX-Evil: 1\"",
        "apps.a.webhook.headers: the value of `X-Key` is empty, begins or ends with a space, or is not ASCII (in FILE)",
    ),
    ("[apps.a.webhook.headers]\nX-Key = ['hunter22']", "apps.a.webhook.headers.X-Key: expected a string, found a list (in FILE)"),
    ("[apps.a.webhook]\nheaders = 'hunter22'", "apps.a.webhook.headers: expected a section, found a string (in FILE)"),
    ("[apps.a.webhook]\nsecret = 12", "apps.a.webhook.secret: expected a string, found a number (in FILE)"),
    ("file = 'x'", "file: unknown section; known: apps, cleanup, dispatch, feedback, jobs, live, logging, metrics, queue, redis, retry, server, store, traces (in FILE)"),
]  # fmt: skip


@pytest.fixture
def given_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let this process have a number of cores, as a process that has just started sees them."""
    monkeypatch.setattr(processes, "quota", lambda: inf)

    def give(number: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {*range(number)}, raising=False)
        cores.cache_clear()

    yield give
    cores.cache_clear()


@pytest.mark.parametrize(
    ("group", "limits", "found"),
    [
        ("0::/", {"": "150000 100000\n"}, 1.5),  # in a container, which sees its own group as the root
        ("0::/", {"": "max 100000\n"}, inf),
        ("0::/system.slice/pushsvc.service", {"system.slice/pushsvc.service": "50000 100000\n"}, 0.5),
        ("1:cpu:/x\n0::/kube/pod/own", {"kube/pod/own": "max 100000\n", "kube/pod": "400000 100000\n"}, 4.0),
        ("0::/a/b", {"a/b": "800000 100000\n", "a": "200000 100000\n"}, 2.0),
        ("4:cpu,cpuacct:/docker/x", {"": "100000 100000\n"}, inf),
    ],
)
def test_a_quota_of_cpu_time_counts_as_cores(group: str, limits: dict[str, str], found: float, tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    for name, limit in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(limit)
    assert quota(tmp_path) == found


@pytest.mark.parametrize(("share", "number"), [(inf, 8), (0.5, 1), (1.0, 1), (2.5, 3), (64.0, 8)])
def test_cores_are_those_of_affinity_and_quota(
    share: float, number: int, given_cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "quota", lambda: share)
    given_cores(8)
    assert cores() == number


AUTO = "".join(f"[{section}]\nprocesses = 'auto'\n" for section in ("server", "dispatch", "jobs", "live"))


def numbers(settings: Settings) -> list[int]:
    return [each.processes for each in (settings.server, settings.dispatch, settings.jobs, settings.live)]


@pytest.mark.parametrize(("number", "half"), [(1, 1), (2, 1), (3, 1), (4, 2), (7, 3), (64, 32)], ids=str)
def test_auto_is_half_of_the_cores(number: int, half: int, given_cores: Callable[[int], None], tmp_path: Path) -> None:
    given_cores(number)
    assert numbers(loaded(tmp_path, "")) == [1, 1, 1, 1]
    assert numbers(loaded(tmp_path, AUTO)) == [half] * 4
    environ = {"PUSHSVC__SERVER__PROCESSES": "auto", "PUSHSVC__JOBS__PROCESSES": "5"}
    assert numbers(loaded(tmp_path, "[dispatch]\nprocesses = 9", **environ)) == [half, 9, 5, 1]


def test_settings_that_are_read_again_are_the_same_after_a_change_of_cores(
    given_cores: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given_cores(8)
    before = loaded(tmp_path, AUTO)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert loaded(tmp_path, AUTO) == before


@pytest.mark.parametrize(
    ("number", "copies", "shared"), [(1, "", False), (4, "", True), (1, "2", True), (4, "1", False)]
)
def test_an_address_is_shared_as_the_supervisor_has_decided(
    number: int,
    copies: str,
    shared: bool,
    given_cores: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Also where a process finds other cores when it takes the place of another."""
    given_cores(number)
    if copies:
        monkeypatch.setenv(processes.COPIES, copies)
    settings = loaded(tmp_path, AUTO)
    assert (api_config(settings).reuse_port, sockets_config(settings.live, "").reuse_port) == (shared, shared)


@pytest.mark.parametrize(("text", "error"), FAULTS, ids=[error.partition(":")[0] for _, error in FAULTS])
def test_a_fault_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, error: str) -> None:
    assert refused(tmp_path, text).replace(str(tmp_path / "pushsvc.toml"), "FILE") == error


APNS, HOOK = '[apps.a.apns]\nkey_file = "k"\n', "[apps.a.webhook]\n"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (HOOK + "url = 'http://x/'\nsecret = 'abc'\nbase = 9\ncap = 3", "webhook.url webhook.secret webhook.base"),
        (HOOK + "url = 'http://me@x/'\nsecret = 'abc'", "webhook.url webhook.url webhook.secret"),
        (HOOK + "url = 'https://x/'\nbatch = 0", "webhook.batch webhook.secret"),
        (HOOK + "headers = { 'X Key' = 'y', host = 'z' }\nkinds = []", "webhook.headers webhook.headers webhook.kinds"),
        (APNS + "key_id = '-'\nproxy = 'ftp://x'\nendpoint = 'x'", "apns.topic apns.key_id apns.team_id apns.proxy apns.endpoint"),
        (APNS + "topic = ''\nkey_id = 1\nchannels_endpoint = 'x'", "apns.key_id apns.topic apns.team_id apns.channels_endpoint"),
        ("[apps.a.fcm]\nproject_id = '-/-'\nproxy = 'ftp://x'\nquota = 'x'", "fcm.service_account_file fcm.project_id fcm.proxy fcm.quota"),
        ("[apps.a.fcm]\nservice_account_file = 'x'\ncollapsible = 'x'\nendpoint = 'x'", "fcm.collapsible fcm.endpoint"),
        (
            "[apps.a.live]\nold_secret = 'x'\nhistory = 9\norder = 'provider'\nrules = [{ where = '', order = 'x' }]",
            "live.rules[0].order live.rules[0].where live.order live.old_secret live.secret live.history",
        ),
        (
            "[apps.a.live]\nold_secret = 'x'\nhistory = 9\norder = 'provider'\nrules = [{ where = '', order = 'live' }]",
            "live.old_secret live.secret live.history live.rules[0].where live.order",
        ),
        ("[live]\nheartbeat_min = 9\nheartbeat_max = 3\ntls_key = '-----BEGIN'", "live.heartbeat_min live.tls_cert live.tls_key"),
        ("[apps.'a/b'.limits]\nper_app = 'x'", "apps.a/b apps.a/b.limits.per_app"),
        ("[feedback]\nstrikes = 0\nprune_anyway = { 'a/apns' = 2026-12-01T09:00:00Z }", 'feedback.strikes feedback.prune_anyway["a/apns"]'),
        # What only follows from another fault is none.
        (HOOK + "url = 'https://x/'\nsecert = 'abc'", "webhook.secert"),
        (HOOK + "url = 5\nbase = 9\ncap = 'x'", "webhook.url webhook.cap"),
        ("[redis]\nurl = 'db:6379'\n[queue]\ndurability = 'replicas'", "redis.url"),
    ],
)  # fmt: skip
def test_no_fault_hides_another_that_does_not_depend_on_it(tmp_path: Path, text: str, faults: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(written(tmp_path, text), {})
    first, *lines = str(caught.value).splitlines()
    found = [line.strip().partition(": ")[0] for line in lines or [first]]
    assert sorted(path.removeprefix("apps.a.") for path in found) == sorted(faults.split())


def test_every_app_without_a_channel_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^apps\.a: the app has no provider and no live channel, nor has b, nor has c "
    ):
        loaded(tmp_path, "[apps.a]\n[apps.b]\n[apps.c]").require_apps()


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("[server]\nhost = localhost\n", 'texts need quotes: "text"'),
        ("[server]\nhost = 127.0.0.1\n", 'texts need quotes: "text"; one key stands in a line'),
        ("[x]\na = ['b', hunter22]\n", 'texts need quotes: "text"'),
        ("[x]\r\na = no\r\n", "write true or false, in small letters; texts need quotes"),
        ("a = True", "write true or false, in small letters; texts need quotes"),
        ("a = \nb = 1", 'a value is missing: "text", 1, true or false'),
        ("a = ", 'a value is missing: "text", 1, true or false'),
        ("a = 1\na = 2\n", "this key is there twice: leave one of them out"),
        ("x = { a = 1, a = 2 }\n", "this key is there twice: leave one of them out"),
        ("[x]\na = 1\n[x]\nb = 2\n", "this section is there twice: join the two"),
        ("[x\n", "see https://toml.io/en/v1.0.0"),
    ],
)
def test_a_slip_in_toml_is_reported_with_its_remedy(tmp_path: Path, text: str, remedy: str) -> None:
    reported = refused(tmp_path, text)
    # tomllib words its errors a little differently from version to version.
    assert reported.startswith(f"{tmp_path / 'pushsvc.toml'}: not valid TOML: ")
    assert reported.endswith(f" ({remedy})")
    assert "hunter22" not in reported


def test_a_route_that_is_pruned_anyway(tmp_path: Path) -> None:
    text = "[apps.a.apns]\nkey_id = 'K'\n[feedback]\nprune_anyway = { 'a/apns' = 2026-12-01T09:00:00+01:00 }"
    until = datetime(2026, 12, 1, 8, tzinfo=UTC)
    assert loaded(tmp_path, text).feedback.prune_anyway == {"a/apns": until}
    environ = {"PUSHSVC__FEEDBACK__PRUNE_ANYWAY": '{"a/apns": "2026-12-01T08:00:00Z"}'}
    assert loaded(tmp_path, "[apps.a.apns]\nkey_id = 'K'", **environ).feedback.prune_anyway == {"a/apns": until}


def test_all_faults_at_once(tmp_path: Path) -> None:
    reported = refused(
        tmp_path, "[server]\nport = -1\nhots = ''\n[apps.a.apns]\nwindow = 'x'\n[nope]", PUSHSVC__RETRY__BASE="soon"
    )
    assert reported.splitlines() == [
        f"{tmp_path / 'pushsvc.toml'}: 6 faults",
        "  nope: unknown section; known: apps, cleanup, dispatch, feedback, jobs, live, logging, metrics, queue, redis, retry, server, store, traces",
        "  server.port: expected a whole number from 0 to 65,535, found the number -1",
        "  server.hots: unknown key; did you mean `host`?",
        '  retry.base (from PUSHSVC__RETRY__BASE): expected a number greater than 0, found "soon"',
        '  apps.a.apns.window: expected a whole number, found "x"',
        "  apps.a.apns.key_id: is missing: expected a string",
    ]


@pytest.mark.parametrize(
    ("content", "reported"),
    [(None, "no such file"), (b"\xff\xfe", "not UTF-8 at byte 0"), (b"a = 1\na = 2", "not valid TOML")],
)
def test_an_unreadable_file(tmp_path: Path, content: bytes | None, reported: str) -> None:
    file = tmp_path / "x.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=reported) as caught:
        load(file, {}, providers=PROVIDERS)
    assert caught.value.path == str(file)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (f"[server]\nport = {'9' * 5000}", "a number is too long"),
        (f"a = {'[' * 100_000}", "nested too deeply"),
        (f"[{'.'.join('a' * 60_000)}]", "nested too deeply"),
    ],
    ids=["digits", "brackets", "dots"],
)
def test_what_the_parser_itself_cannot_take(tmp_path: Path, text: str, reported: str) -> None:
    assert reported in refused(tmp_path, text)


def test_a_variable_that_is_nested_too_deeply(tmp_path: Path) -> None:
    variable = "PUSHSVC__FEEDBACK__PRUNE_ANYWAY"
    assert variable in refused(tmp_path, "", **{variable: '{"a":' + "[" * 100_000})


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a folder \(name the file in it"):
        load(tmp_path, {}, providers=PROVIDERS)


def test_the_redis_password_is_never_shown(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "[redis]\nurl = 'rediss://me:hunter22@host:6380/2?ssl_ca_certs=x'")
    assert settings.redis.shown == "rediss://host:6380/2"
    assert "hunter22" not in repr(settings)
    assert settings.redis == RedisSettings(url="rediss://me:hunter22@host:6380/2?ssl_ca_certs=x")
    assert "hunter22" not in refused(tmp_path, "[redis]\nurl = 'http://me:hunter22@host'")
    assert "hunter22" not in refused(tmp_path, "[redis]\nurls = 'redis://me:hunter22@host'")


RATES = [
    ("240/min", Rate(240, 60)),
    ("10/s", Rate(10, 1)),
    (" 10 / second ", Rate(10, 1)),
    ("500/10s", Rate(500, 10)),
    ("7/2h", Rate(7, 7200)),
    ("1/day", Rate(1, 86400)),
    ("0", None),
    (" 0 ", None),
]


@pytest.mark.parametrize(("text", "rate"), RATES)
def test_rates(text: str, rate: Rate | None) -> None:
    assert parse_rate(text) == rate
    if rate:
        assert parse_rate(str(rate)) == rate
        assert str(rate) == re.sub(r" |econd", "", text)
        assert rate.per_second == rate.count / rate.seconds


@given(st.text(alphabet="0123456789/ smhdinMS.-+e", max_size=12))
def test_a_rate_parses_or_is_refused(text: str) -> None:
    try:
        rate = parse_rate(text)
    except ValueError:
        return  # Its words are tested below.
    assert rate is None or (rate.count > 0 and rate.seconds > 0)


@pytest.mark.parametrize("text", ["", "240", "/s", "240/", "240/fortnight", "-1/s", "1.5/s", "0/s", "1/0s", "²/s"])
def test_not_a_rate(text: str) -> None:
    with pytest.raises(ValueError, match="expected a rate such as"):
        parse_rate(text)


def test_the_example_loads() -> None:
    settings = load_settings(EXAMPLE, {})
    assert list(settings.apps) == ["shop"]
    assert set(settings.apps["shop"].providers) == {kind.platform for kind in REGISTRY.values()}
    settings.require_apps()


def test_the_example_documents_every_key_with_its_default() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    example = tomllib.loads(text)
    defaults = configured_type()()
    for section in structs.fields(Settings):
        if section.name in ("apps", "file", "value_files"):
            continue
        plain = getattr(defaults, section.name)
        want = {field.name: getattr(plain, field.name) for field in structs.fields(plain)}
        want |= {name: str(value) for name, value in want.items() if isinstance(value, Path)}
        want |= {name: list(value) for name, value in want.items() if isinstance(value, tuple)}
        rates = {name: parse_rate(example[section.name][name]) for name, value in want.items() if type(value) is Rate}
        assert example[section.name] | rates == want, section.name
    shop = example["apps"]["shop"]
    limits = {"per_token": "240/min", "per_app": "0", "intake": "0", "max_pending": 0, "on_exceed": "delay"}
    assert shop["limits"] == limits
    assert WebhookSettings(**shop["webhook"] | {"kinds": tuple(shop["webhook"]["kinds"])}) == WebhookSettings()
    assert set(shop["webhook"]) == set(WebhookSettings.__struct_fields__)
    for platform, kind in ((kind.platform, kind) for kind in REGISTRY.values()):
        written_there = text.partition(f"[apps.shop.{platform}]\n")[2].partition("\n[")[0]
        for field in structs.fields(kind.config):
            # Switched off where it excludes another.
            assert re.search(rf"^(# )?{field.name} = ", written_there, re.MULTILINE), f"{platform}.{field.name}"
            if isinstance(field.default, int | float):
                assert shop[platform][field.name] == field.default, f"{platform}.{field.name}"
    # Switched off, because no key and no secret may be known to everybody.
    keys, live = (
        tomllib.loads(
            "\n".join(re.findall(r"^# (\w+ = .*)", text.partition(head)[2].partition("\n\n#")[0], re.MULTILINE))
        )
        for head in ("# [[apps.shop.keys]]\n", "# [apps.shop.live]\n")
    )
    assert keys == {"name": "backend", "sha256": "", "scopes": ["push"], "intake": "0"}
    assert live == {field.name: field.default for field in structs.fields(AppLive) if field.name != "rules"}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line and not line.startswith(("#", "[")):
            assert lines[number - 1].startswith("#"), f"no comment above line {number + 1}: {line}"


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    file = tmp_path / "pushsvc.toml"
    file.write_bytes(b"\xef\xbb\xbf[server]\nport = 9000\n")
    assert load(file, {}, providers=PROVIDERS).server.port == 9000


def test_faults_of_every_kind_are_named_at_once(tmp_path: Path) -> None:
    """A value of the wrong type, a range, an expression and a secret do not wait for one another."""
    file = tmp_path / "pushsvc.toml"
    file.write_text(
        "[server]\nport = 'x'\n[retry]\nbase = 20.0\ncap = 10.0\nattempts = 'many'\n"
        "[live]\nheartbeat_min = 60.0\nheartbeat_max = 10.0\n"
        "[apps.a.live]\nsecret = 'short'\n"
        "[apps.b.live]\nsecret = 'ssssssssssssssssssssssssssssssssssssssss'\norder = 'live'\n"
        "[[apps.b.live.rules]]\nwhere = 'colour == 1'\norder = 'live'\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    reported = {line.strip().partition(": ")[0] for line in caught.value.message.split("\n")[1:]}
    assert reported >= {
        *("server.port", "retry.attempts", "retry.base", "live.heartbeat_min"),
        *("apps.a.live.secret", "apps.b.live.rules[0].where"),
    }


def test_what_depends_on_a_wrong_value_is_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "pushsvc.toml"
    file.write_text("[retry]\nbase = 1000.0\ncap = 'x'\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {})
    assert caught.value.path == "retry.cap"
