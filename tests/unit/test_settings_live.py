"""The configuration of the live channel: what loads, what each fault is called, and what reaches the gateway."""

# ruff: noqa: E501  # golden tables: one row a line is easier to read than none too long

from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings as few, strategies as st
from msgspec import Struct

from pushsvc.errors import ConfigError
from pushsvc.live.config import LiveAppConfig, LiveConfig
from pushsvc.live.sockets.origins import origin_rule
from pushsvc.model.live import Denied, Endpoint, client_address, denied, endpoints_of, is_in, own_endpoints
from pushsvc.model.rates import Rate
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.plans import live_config, webhook_configs
from pushsvc.runtime.store import store_config
from pushsvc.settings.live import AppLive, LiveRule, LiveSettings
from pushsvc.settings.schema import Settings

SECRET = "a secret of at least thirty-two bytes"
APNS = "[apps.a.apns]\nkey_file = 'k.p8'\nkey_id = 'KEY1234567'\nteam_id = 'TEAM123456'\ntopic = 't'\n"
LIVE = f"[apps.a.live]\nsecret = '{SECRET}'\n"


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    file = folder / "pushsvc.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environ)


FAULTS = [
    # (TOML, the whole error text less the folder of the file)
    ("[live]\nheartbeat = 3", "live.heartbeat: must lie between `heartbeat_min` and `heartbeat_max`"),
    ("[live]\nheartbeat_min = 30", "live.heartbeat: must lie between `heartbeat_min` and `heartbeat_max`"),
    ("[live]\nheartbeat_max = 24", "live.heartbeat: must lie between `heartbeat_min` and `heartbeat_max`"),
    ("[live]\nheartbeat = 0.5", "live.heartbeat: expected a number from 1 to 3,600, found the number 0.5"),
    ("[live]\nheartbeat_max = inf", "live.heartbeat_max: expected a number from 1 to 3,600, found the number inf"),
    ("[live]\nheartbeat_min = nan", "live.heartbeat_min: expected a number from 1 to 3,600, found the number nan"),
    ("[live]\npong_within = 0", "live.pong_within: expected a number greater than 0 and of at most 300, found the number 0"),
    ("[live]\nport = 65536", "live.port: expected a whole number from 0 to 65,535, found the number 65536"),
    ("[live]\nprocesses = 0", 'live.processes: expected a whole number of at least 1, or "auto" for half of the cores, found the number 0'),
    ("[live]\ninline = 65537", "live.inline: expected a whole number from 0 to 65,536, found the number 65537"),
    ("[live]\nconnects = '2000'", 'live.connects: expected a rate such as `240/min`, `10/s`, `500/10s` (units s, min, h, day), or `0` for no limit, found "2000"'),
    ("[live]\nendpoints = 'wss://x'", 'live.endpoints: expected a list, found "wss://x"'),
    ("[live]\nendpoints = ['https://x', 'push.example']", "live.endpoints[1]: expected https://HOST[:PORT] of a gateway or its proxy, or wss://HOST[:PORT] for WebSocket alone"),
    ("[live]\nendpoints = ['wss://x/connection/sse']", "live.endpoints[0]: /connection/sse is a path of HTTP: begin it with http:// or https://"),
    ("[live]\nallowed_origins = ['*', 'shop.example']", "live.allowed_origins[1]: expected an origin: https://shop.example, https://*.shop.example, or * for every page"),
    ("[live]\nallowed_origins = ['https://shop.example/']", "live.allowed_origins[0]: expected an origin: https://shop.example, https://*.shop.example, or * for every page"),
    ("[live]\nallowed_origins = ['https://shop.example:443']", "live.allowed_origins[0]: leave :443 out: browsers do not send the default port"),
    ("[live]\ndeny = ['phone-1', '203.0.113.0/33']", "live.deny[1]: expected a network such as 203.0.113.0/24 or 2001:db8::/32, or the id of a device"),
    ("[live]\ndeny = ['']", "live.deny[0]: expected a network such as 203.0.113.0/24 or 2001:db8::/32, or the id of a device"),
    ("[live]\nproxies = ['10.0.0.0/8', 'nginx']", "live.proxies[1]: expected a network or an address, such as 203.0.113.0/24 or 2001:db8::7"),
    ("[live]\ntls_key = 'key.pem'", "live.tls_cert: needed beside `tls_key`; leave both out where a proxy ends TLS"),
    ("[live]\ntls_cert = '-----BEGIN CERTIFICATE-----'", "live.tls_cert: expected the path of a PEM file, found its content"),
    ("[live]\nsecret = 'hunter22'", "live.secret: unknown key; known: allowed_origins, connects, deny, drain, endpoints, heartbeat, heartbeat_max, heartbeat_min, host, inline, max_connections, nice, pong_within, port, processes, proxies, tls_cert, tls_key"),
    ("[apps.a]\nlive = 3", "apps.a.live: expected a section, found the number 3"),
    ("[apps.a.live]", "apps.a.live.secret: needed for connect tokens, unless `public_key_file` verifies those that you sign yourself; `openssl rand -hex 32` makes one"),
    ("[apps.a.live]\nsecret = 'hunter22'", "apps.a.live.secret: expected at least 32 bytes, as HS256 needs; `openssl rand -hex 32` makes one"),
    (LIVE + "old_secret = 'hunter22'", "apps.a.live.old_secret: expected at least 32 bytes, as HS256 needs; `openssl rand -hex 32` makes one"),
    ("[apps.a.live]\npublic_key_file = 'k'\nold_secret = '%s'" % ("hunter22" * 4), "apps.a.live.secret: needed beside `old_secret`, which only verifies"),
    ("[apps.a.live]\nsecret = 12", "apps.a.live.secret: expected a string, found a number"),
    ("[apps.a.live]\nsecret = '%s '" % ("hunter22" * 4), "apps.a.live.secret: begins or ends with a space or a line break: remove it, and where tokens are signed"),
    ("[apps.a.live]\nsecret = '-----BEGIN PUBLIC KEY-----%s'" % ("hunter22" * 4), "apps.a.live.secret: expected a random text, found a key pair's key: its file is `public_key_file`"),
    (LIVE + "order = 'provider,live'", 'apps.a.live.order: expected one of "live, provider", "provider", "provider, live", "live", found "provider,live"'),
    (LIVE + "order = 'provider'", 'apps.a.live.order: "provider" reaches no device: the app has no provider; add [apps.a.apns] or .fcm'),
    (LIVE + "ack_within = 0", "apps.a.live.ack_within: expected a number greater than 0 and of at most 3,600, found the number 0"),
    (LIVE + "window = 501", "apps.a.live.window: expected a whole number from 1 to 500, found the number 501"),
    (LIVE + "resend = -1", "apps.a.live.resend: expected a whole number from 0 to 10, found the number -1"),
    (LIVE + "history = 0", "apps.a.live.history: expected a whole number from 1 to 10,000, found the number 0"),
    (LIVE + "history = 32", "apps.a.live.history: must be greater than `window`, 32, which may be on their way to a device"),
    (LIVE + "token_ttl = 59", "apps.a.live.token_ttl: expected a whole number from 60 to 31,622,400, found the number 59"),
    (LIVE + "rules = 'x'", 'apps.a.live.rules: expected a list, found "x"'),
    (LIVE + "[[apps.a.live.rules]]\norder = 'live'", "apps.a.live.rules[0].where: is missing: expected a string"),
    (LIVE + "[[apps.a.live.rules]]\nwhere = ''\norder = 'live'", "apps.a.live.rules[0].where: column 1: is empty; an example: tags.plan == 'pro' and locale in ('de', 'at')"),
    (LIVE + "[[apps.a.live.rules]]\nwhere = \"platform == 'ios'\"\norder = 'live'", "apps.a.live.rules[0].where: column 13: `platform` is 'apns' or 'fcm' or 'live'"),
    (LIVE + APNS + "[[apps.a.live.rules]]\nwhere = 'model == 1'\norder = 'provider'", "apps.a.live.rules[0].where: column 1: `model` is not a field; a tag is written `tags.model`; all fields are platform, user, locale, timezone, app_version, environment, registered, last_seen, tags.NAME"),
    (LIVE + "[[apps.a.live.rules]]\nwhere = \"user == 'x'\"\norder = 'provider'", 'apps.a.live.rules[0].order: "provider" reaches no device: the app has no provider; add [apps.a.apns] or .fcm'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error"), FAULTS, ids=[error.partition(":")[0] for _, error in FAULTS])
def test_a_fault_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert str(caught.value).removesuffix(f" (in {tmp_path / 'pushsvc.toml'})") == error
    assert "hunter22" not in str(caught.value)


def test_every_fault_of_an_expression_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 faults") as caught:
        loaded(tmp_path, LIVE + "[[apps.a.live.rules]]\nwhere = \"modell == 1 or platform == 'ios'\"\norder = 'live'")
    assert [line.strip().partition(" ")[0] for line in str(caught.value).splitlines()[1:]] == [
        "apps.a.live.rules[0].where:",
        "apps.a.live.rules[0].where:",
    ]


def test_a_whole_live_channel_without_a_provider(tmp_path: Path) -> None:
    """Also from the environment, with its secret in a file."""
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    settings = loaded(
        tmp_path,
        "[live]\ntls_cert = 'cert.pem'\ntls_key = '/etc/key.pem'\n[apps.my-app.live]\nresend = 0",
        PUSHSVC__LIVE__DENY="203.0.113.0/24, phone-1",
        PUSHSVC__LIVE__CONNECTS="0",
        PUSHSVC__LIVE__ENDPOINTS='["https://push.example"]',
        PUSHSVC__APPS__MY_APP__LIVE__SECRET_FILE=str(tmp_path / "secret"),
        PUSHSVC__APPS__MY_APP__LIVE__PUBLIC_KEY_FILE="key.pem",
        PUSHSVC__APPS__MY_APP__LIVE__ORDER="live",
        PUSHSVC__APPS__MY_APP__LIVE__RULES__0__WHERE="tags.beta",
        PUSHSVC__APPS__MY_APP__LIVE__RULES__0__ORDER="live, provider",
    )
    assert settings.apps["my-app"].live == AppLive(
        secret=SECRET,
        public_key_file=str(tmp_path / "key.pem"),
        resend=0,
        order="live",
        rules=(LiveRule(where="tags.beta", order="live, provider"),),
    )
    assert settings.live == LiveSettings(
        tls_cert=str(tmp_path / "cert.pem"),
        tls_key="/etc/key.pem",
        deny=("203.0.113.0/24", "phone-1"),
        connects=None,
        endpoints=("https://push.example",),
    )
    settings.require_apps()
    assert SECRET not in repr(settings)


def test_every_key_reaches_the_gateway(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    (tmp_path / "key.pem").write_text(pem)
    settings = loaded(
        tmp_path,
        f"""
        [live]
        host = "::"
        port = 9
        max_connections = 10
        endpoints = ["wss://push.example"]
        heartbeat = 11
        heartbeat_min = 10
        heartbeat_max = 12
        pong_within = 13
        drain = 14
        connects = "15/s"
        inline = 16
        allowed_origins = ["https://*.shop.example"]
        deny = ["phone-1", "203.0.113.7"]
        proxies = ["10.0.0.0/8", "::1"]
        tls_cert = "/c"
        tls_key = "/k"
        [apps.a.live]
        secret = "{SECRET}"
        old_secret = "{SECRET}, before"
        public_key_file = "key.pem"
        ack_within = 17
        window = 18
        resend = 3
        history = 19
        history_age = 20
        """
        + APNS.replace("apps.a", "apps.b"),
    )
    config = live_config(settings)
    assert config == LiveConfig(
        endpoints=(Endpoint("websocket", "wss://push.example/connection/websocket"),),
        heartbeat=11,
        heartbeat_min=10,
        heartbeat_max=12,
        pong_within=13,
        connects=Rate(15, 1),
        inline=16,
        deny_networks=(ip_network("203.0.113.7"),),
        deny_ids=frozenset({"phone-1"}),
        apps={
            "a": LiveAppConfig(
                secret=SECRET, old_secret=f"{SECRET}, before", public_key=pem, ack_within=17, window=18, resend=3
            )
        },
    )
    assert SECRET not in repr(config)
    store = store_config(settings)
    assert (store.history, store.history_age) == ({"a": 19}, {"a": 20})


def test_the_defaults_of_configuration_and_gateway_agree() -> None:
    settings = Settings()
    own = own_endpoints("127.0.0.1", 8081, secure=False)
    assert live_config(settings) == LiveConfig(endpoints=own, connects=Rate(2000, 1))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, ": no such file (correct `public_key_file`)"),
        (b"\xff", " is not a text (name a public key in PEM)"),
        (
            b"hunter22",
            " is not a public key in PEM (-----BEGIN PUBLIC KEY-----) (name a public key in PEM, RSA or P-256)",
        ),
    ],
)
def test_a_public_key_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)
    settings = loaded(tmp_path, "[apps.a.live]\npublic_key_file = 'key.pem'")
    with pytest.raises(ConfigError) as caught:
        live_config(settings)
    assert str(caught.value) == f"apps.a.live.public_key_file: {tmp_path / 'key.pem'}{what}"


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["live", "provider", "live, provider", "0", "1/s", "https://x", "*", "::1", "tags.a", "\0"]),
    st.lists(st.sampled_from(["https://x", "10.0.0.0/8", "10.0.0.0/99", "d 1", "*"]), max_size=3),
    st.dictionaries(st.sampled_from(["where", "order", "x"]), st.text(max_size=5), max_size=2).map(lambda rule: [rule]),
)


def _section(kind: type[Struct]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from([*kind.__struct_fields__, "wrong"]), VALUES, max_size=6)


@few(max_examples=50)
@given(_section(LiveSettings), _section(AppLive))
def test_any_value_at_any_key_loads_or_is_a_fault_that_shows_no_secret(
    live: dict[str, object], app: dict[str, object]
) -> None:
    environ = {"PUSHSVC__LIVE": json.dumps(live), "PUSHSVC__APPS__A__LIVE": json.dumps({"secret": SECRET * 2} | app)}
    settings: Settings | None = None
    try:
        settings = load_settings(None, environ)
        found = repr(settings)
    except ConfigError as error:
        found = str(error)
    assert SECRET not in found
    if settings is not None:
        settings.require_apps()
        channel = settings.apps["a"].live
        assert channel is not None
        if not channel.public_key_file:
            assert live_config(settings).apps["a"].secret == channel.secret


# --- the addresses that devices are given ------------------------------------------------------------

ALL = "{0}://{1}/connection/websocket {2}://{1}/connection/http_stream {2}://{1}/connection/sse"
ENDPOINTS = [
    ("https://push.example", ALL.format("wss", "push.example", "https")),
    ("https://push.example/", ALL.format("wss", "push.example", "https")),
    ("http://127.0.0.1:8081", ALL.format("ws", "127.0.0.1:8081", "http")),
    ("https://[2001:db8::1]:8443/live/", ALL.format("wss", "[2001:db8::1]:8443/live", "https")),
    ("https://x/connection/sse", "https://x/connection/sse"),
    ("https://x/live/connection/http_stream", "https://x/live/connection/http_stream"),
    ("https://x/connection/websocket", "wss://x/connection/websocket"),
    ("wss://x", "wss://x/connection/websocket"),
    ("ws://x:80/", "ws://x:80/connection/websocket"),
    ("wss://x/socket", "wss://x/socket"),
    ("wss://x/connection/websocket", "wss://x/connection/websocket"),
]


@pytest.mark.parametrize(("text", "urls"), ENDPOINTS)
def test_an_address_means_these_endpoints(text: str, urls: str) -> None:
    found = endpoints_of(text)
    assert " ".join(each.endpoint for each in found) == urls
    for each in found:
        assert each.endpoint.endswith(f"/connection/{each.transport}") or text.endswith("/socket")
        assert endpoints_of(each.endpoint) == (each,)


@pytest.mark.parametrize(
    "text", ["", "x", "//x", "https://", "https://x:0", "https://x:y", "https://x?a=b", "https://x#a", "https://me@x",
             "ftp://x", "https://x y", "https://x\n", "https://[::1", "https://pösh.example", "ws://x/connection/http_stream"]
)  # fmt: skip
def test_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(expected|/connection/)"):
        endpoints_of(text)


@given(st.text(alphabet="htpsw:/.x[]@?# 0é\n", max_size=14))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        found = endpoints_of(text)
    except ValueError:
        return
    assert found
    assert all(each.endpoint.isascii() for each in found)


def test_the_own_address() -> None:
    assert own_endpoints("::1", 8081, secure=True)[0].endpoint == "wss://[::1]:8081/connection/websocket"
    assert own_endpoints("push.example", 443, secure=True)[2].endpoint == "https://push.example:443/connection/sse"


# --- who is refused ---------------------------------------------------------------------------------

DENIED = [
    ((), Denied()),
    (("phone-1", "user/7", "10", "aa:bb:cc:dd:ee:ff", "1.2.3"), Denied((), frozenset({"phone-1", "user/7", "10", "aa:bb:cc:dd:ee:ff", "1.2.3"}))),
    (("203.0.113.7", "2001:db8::/32", "d"), Denied((ip_network("203.0.113.7"), ip_network("2001:db8::/32")), frozenset("d"))),
    (("203.0.113.7/24",), Denied((ip_network("203.0.113.0/24"),))),
    (("::ffff:203.0.113.0/120", "::ffff:1.2.3.4"), Denied((ip_network("203.0.113.0/24"), ip_network("1.2.3.4")))),
    (("0.0.0.0/0", "::/0"), Denied((ip_network("0.0.0.0/0"), ip_network("::/0")))),
]  # fmt: skip


@pytest.mark.parametrize(("entries", "expected"), DENIED)
def test_networks_and_devices_are_distinguished(entries: tuple[str, ...], expected: Denied) -> None:
    assert denied(entries) == expected


@pytest.mark.parametrize(
    "entry", ["", " ", "a b", "\n", "203.0.113.300", "203.0.113/24", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/x".replace("x", "255.0.0.1.1"), "2001:db8::/129", "2001:db8::1::/32", "x" * 300]
)  # fmt: skip
def test_what_is_nearly_an_address_is_no_device(entry: str) -> None:
    with pytest.raises(ValueError, match="expected a network such as"):
        denied([entry])


@few(max_examples=30)
@given(st.lists(st.ip_addresses().map(str) | st.text("abc123", min_size=1, max_size=4), max_size=4))
def test_every_entry_is_one_of_both(entries: list[str]) -> None:
    found = denied(entries)
    assert len(found.networks) + sum(entry in found.ids for entry in entries) == len(entries)
    assert all(is_in(entry, found.networks) for entry in entries if entry not in found.ids)


PROXIES = denied(["10.0.0.0/8", "::1"]).networks
FORWARDED = [
    # (the other end, X-Forwarded-For, the address of the client)
    ("198.51.100.1", "", "198.51.100.1"),
    ("198.51.100.1", "203.0.113.7", "198.51.100.1"),  # no proxy of ours
    ("10.0.0.1", "", "10.0.0.1"),
    ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
    ("::1", "203.0.113.7", "203.0.113.7"),
    ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
    ("10.0.0.1", "192.0.2.9, 203.0.113.7", "203.0.113.7"),  # the first one is what the client says
    ("10.0.0.1", "203.0.113.7, 10.1.1.1,10.2.2.2", "203.0.113.7"),
    ("10.0.0.1", "10.1.1.1, 10.2.2.2", "10.1.1.1"),
    ("10.0.0.1", "203.0.113.7:4711", "203.0.113.7"),
    ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
    ("10.0.0.1", "2001:db8::7", "2001:db8::7"),
    ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
    ("10.0.0.1", "203.0.113.7, 10.0.0.2, 300.1.1.1", "10.0.0.1"),
    ("10.0.0.1", "203.0.113.7,", "10.0.0.1"),
    ("", "203.0.113.7", ""),
]


@pytest.mark.parametrize(("peer", "forwarded", "address"), FORWARDED)
def test_the_address_that_our_proxies_forward(peer: str, forwarded: str, address: str) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


@given(st.text(alphabet="10.:af[], \t", max_size=20))
def test_whatever_is_forwarded_is_an_address(forwarded: str) -> None:
    ip_network(client_address("10.0.0.1", forwarded, PROXIES))
    assert client_address("198.51.100.1", forwarded, PROXIES) == "198.51.100.1"


# --- origins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("https://*.shop.example", "https://eu.shop.example"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://127.0.0.1:5173", "http://127.0.0.1:5173"),
        ("http://[::1]:5173", "http://[::1]:5173"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("HTTPS://Shop.Example", "https://shop.example"),
        ("null", "null"),
        ("*", "https://anything.example"),
    ],
)
def test_an_origin_that_is_taken_lets_its_pages_in(tmp_path: Path, allowed: str, origin: str) -> None:
    settings = loaded(tmp_path, f"[live]\nallowed_origins = ['{allowed}']")
    assert origin_rule(settings.live.allowed_origins)(origin, "push.example")


@pytest.mark.parametrize(
    ("webhook", "logged"),
    [
        ("", False),
        ("url = 'https://example.com/'", False),
        ("url = 'https://example.com/'\nkinds = ['event']", True),
        ("url = 'https://example.com/'\nkinds = ['feedback', 'event']", True),
        ("kinds = ['event']", False),  # to nobody
    ],
)
def test_events_of_devices_are_logged_where_a_webhook_is_sent_them(tmp_path: Path, webhook: str, logged: bool) -> None:
    secret = "whsec_" + "QUJD" * 10
    text = f"[apps.a.live]\nsecret = '{SECRET}'\n[apps.a.webhook]\nsecret = '{secret}'\n{webhook}"
    settings = loaded(tmp_path, text)
    assert live_config(settings).apps["a"].log_events == logged
    assert ("a" in webhook_configs(settings, "event")) == logged
    assert ("a" in webhook_configs(settings, "feedback")) == ("url" in webhook and "['event']" not in webhook)
    assert ("a" in webhook_configs(settings)) == ("url" in webhook)
