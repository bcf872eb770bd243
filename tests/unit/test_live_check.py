"""What `pushsvc check` finds about the live channel."""

# ruff: noqa: E501  # golden tables: one row a line is easier to read than none too long

from __future__ import annotations

import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from msgspec import Struct

from pushsvc.model.finding import Finding
from pushsvc.providers.files import check_dates
from pushsvc.runtime.checks.live import (
    SOON,
    check_channels,
    check_endpoints,
    check_files,
    check_live,
    check_origins,
    check_port,
)
from pushsvc.settings.live import AppLive, LiveRule, LiveSettings
from pushsvc.settings.schema import AppSettings, Settings

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 11, 29, tzinfo=UTC)
SECRET = "a secret of at least thirty-two bytes"


def written(findings: Iterator[tuple[str, Finding]]) -> list[str]:
    return [f"{each.level} {part}: {each.what}" for part, each in findings]


ENDPOINTS = [
    (LiveSettings(), "warning live.endpoints: devices are given 127.0.0.1:8081, where other machines cannot reach it"),
    (LiveSettings(host="::"), "warning live.endpoints: devices are given :::8081, where other machines cannot reach it"),
    (LiveSettings(endpoints=("https://push.example", "wss://localhost")), "warning live.endpoints: devices are given https://push.example, wss://localhost, where other machines cannot reach it"),
    (LiveSettings(port=0), "error live.endpoints: live.port is chosen at the start, so no address can be announced to devices"),
    (LiveSettings(port=0, endpoints=("https://push.example",), proxies=("::1",)), "ok live.endpoints: devices are given https://push.example"),
    (LiveSettings(endpoints=("wss://push.example", "http://push.example")), "warning live.endpoints: devices are given wss://push.example, http://push.example: without TLS, which phones and browsers refuse, since tokens are in it"),
    (LiveSettings(host="push.example", tls_cert="c"), "ok live.endpoints: devices are given push.example:8081"),
]  # fmt: skip


def test_a_proxy_that_is_not_named_hides_the_addresses_of_devices() -> None:
    behind = LiveSettings(endpoints=("https://push.example",))
    assert written(check_endpoints(Settings(live=behind)))[1:] == [
        "warning live.proxies: behind a proxy that is not named here all devices have its address: `deny` knows no networks"
    ]


@pytest.mark.parametrize(("live", "line"), ENDPOINTS)
def test_the_addresses_that_devices_are_given(live: LiveSettings, line: str) -> None:
    assert written(check_endpoints(Settings(live=live))) == [line]


@pytest.mark.parametrize(
    ("port", "which"),
    [
        (8081, []),
        (8080, ["the port of the API (server.port)"]),
        (9463, []),
        (9464, ["among those of `/metrics` (metrics.port and the next ones)"]),
        (9467, ["among those of `/metrics` (metrics.port and the next ones)"]),
        (9468, []),
        (0, []),
    ],
)
def test_a_port_that_another_part_listens_on(port: int, which: list[str]) -> None:
    assert written(check_port(Settings(live=LiveSettings(port=port)))) == [
        f"warning live.port: {port} is {each}: on one machine the second to start ends with an error" for each in which
    ]


def test_the_pages_that_may_connect() -> None:
    assert written(check_origins(LiveSettings())) == []
    assert written(check_origins(LiveSettings(allowed_origins=("https://a", "*")))) == [
        "warning live.allowed_origins: every web page that has a token may connect"
    ]
    assert written(check_origins(LiveSettings(allowed_origins=("https://a", "https://b")))) == [
        "ok live.allowed_origins: pages of https://a, https://b may connect, besides the gateway's own host"
    ]


def test_the_files_that_a_process_may_open() -> None:
    live = LiveSettings(max_connections=1000)
    assert written(check_files(live, 1325)) == written(check_files(live, resource.RLIM_INFINITY)) == []
    assert written(check_files(live, 1324)) == [
        "warning live.max_connections: a process may open 1,324 files here: too few for 1,000 connections"
    ]


def channel(order: str, *rules: str) -> AppLive:
    return AppLive(secret=SECRET, order=order, rules=tuple(LiveRule(where="tags.a", order=rule) for rule in rules))  # type: ignore[arg-type]  # orders


CHANNELS = [
    (channel("live, provider"), False, "ok x.order: the app has no provider: the live channel alone reaches its devices"),
    (channel("live, provider"), True, "ok x.order: the order of channels is live, provider"),
    (channel("provider"), True, "warning x.order: no device uses the live channel, unless a push says `via`"),
    (channel("provider", "provider"), True, "warning x.order: no device uses the live channel, unless a push says `via`"),
    (channel("provider", "live"), True, "ok x.order: the order of channels is provider, and 1 for devices that rules select"),
]  # fmt: skip


@pytest.mark.parametrize(("live", "has_provider", "line"), CHANNELS)
def test_the_order_of_channels(live: AppLive, has_provider: bool, line: str) -> None:
    providers: dict[str, Struct] = {"apns": Finding("ok", "any struct")} if has_provider else {}
    assert written(check_channels("x", AppSettings(name="a", providers=providers), live)) == [line]


def certificate(begin: int, end: int) -> bytes:
    """A certificate that is valid from one day to another one, counted from now."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "push.example")])
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, NOW + timedelta(begin), NOW + timedelta(end))
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("begin", "end", "what"),
    [
        (-1, 14, "ok f is a certificate with its key, valid until 2026-12-13"),
        (-1, 13, "warning f expires on 2026-12-12"),
        (-2, -1, "error f expired on 2026-11-28"),
        (1, 90, "error f is not valid yet"),
    ],
)
def test_a_certificate_is_valid_for_a_time(begin: int, end: int, what: str) -> None:
    read = x509.load_pem_x509_certificate(certificate(begin, end))
    finding = check_dates("f", read, NOW.timestamp(), soon=SOON, remedy="renew it")
    assert f"{finding.level} {finding.what}" == what
    assert finding.expires == (NOW + timedelta(end)).timestamp()


def private(password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
FILES = [
    # (the files c, k and p by what they hold, what is found of them)
    ({"c": b"", "p": PUBLIC}, ["error live.tls_cert: F/c and its key cannot be used: no certificate, or no key", "ok apps.a.live.public_key_file: connect tokens of others are verified by ES256; without a `secret` the API issues none"]),
    ({"c/x": b"", "p/x": b"", "k": b"x"}, ["error live.tls_cert: F/c is a folder", "error apps.a.live.public_key_file: F/p is a folder"]),
    ({"k": b"x"}, ["error live.tls_cert: F/c: no such file", "error apps.a.live.public_key_file: F/p: no such file"]),
    ({"c": b"x", "p": private()}, ["error live.tls_key: F/k: no such file", "error apps.a.live.public_key_file: F/p is a private key: give the gateway the public one, as `openssl pkey -pubout` writes it"]),
    ({"c": certificate(-1, 3000), "k": private(b"hunter22"), "p": PUBLIC}, ["error live.tls_key: F/k holds an encrypted key", "ok apps.a.live.public_key_file: connect tokens of others are verified by ES256; without a `secret` the API issues none"]),
    ({"c": certificate(-1, 3000), "k": private(), "p": PUBLIC}, ["ok live.tls_cert: F/c is a certificate with its key, valid until 2035-02-15", "warning live.tls_key: F/k holds a private key and others may read it", "ok apps.a.live.public_key_file: connect tokens of others are verified by ES256; without a `secret` the API issues none"]),
]  # fmt: skip


@pytest.mark.parametrize(("files", "lines"), FILES)
def test_the_files_of_the_live_channel(tmp_path: Path, files: dict[str, bytes], lines: list[str]) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644)
    app = AppSettings(name="a", live=AppLive(public_key_file=str(tmp_path / "p")))
    live = LiveSettings(
        max_connections=1,
        tls_cert=str(tmp_path / "c"),
        tls_key=str(tmp_path / "k") if files.keys() != {"c", "p"} or files["c"] else "",
    )
    found = [line.replace(str(tmp_path), "F") for line in written(check_live(Settings(live=live, apps={"a": app})))]
    assert [line for line in found if ".endpoints" not in line and ".order" not in line] == lines


def test_without_a_live_channel_nothing_is_said_of_it() -> None:
    assert written(check_live(Settings(apps={"a": AppSettings(name="a")}))) == []
