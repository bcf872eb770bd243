"""The APNs account: its section of the configuration, its files, and what `check` says of them."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pushsvc.errors import CredentialError
from pushsvc.model.finding import Finding
from pushsvc.providers.apns import Config, check
from pushsvc.providers.apns.credentials import ProviderToken, client_context, load_key
from pushsvc.providers.files import private_remedy

from .credential_files import (
    PRODUCTION,
    SANDBOX,
    TOPICS,
    certificate_pem,
    make_certificate,
    p12,
    pem,
    write,
    write_p8,
)
from .provider_fakes import Clock

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
KEY: dict[str, Any] = {
    "topic": "com.example.shop",
    "key_file": "/k.p8",
    "key_id": "ABC123DEFG",
    "team_id": "DEF123GHIJ",
}
CERT: dict[str, Any] = {"topic": "com.example.shop", "cert_file": "/c.pem"}


def found(config: Config) -> list[Finding]:
    return check(config, clock=NOW.timestamp)


def levels(config: Config) -> list[str]:
    return [finding.level for finding in found(config)]


# --- the section --------------------------------------------------------------------------------


def test_the_endpoint_follows_the_environment() -> None:
    assert Config(**KEY).endpoint == "https://api.push.apple.com"
    assert Config(**KEY, environment="sandbox").endpoint == "https://api.sandbox.push.apple.com"
    assert Config(**KEY, environment="sandbox", endpoint="https://[::1]:8443/").endpoint == "https://[::1]:8443"


def test_broadcasts_follow_the_endpoint_and_channels_the_environment() -> None:
    own = Config(**KEY, endpoint="https://[::1]:8443/")
    assert own.broadcast_endpoint == "https://[::1]:8443"
    assert own.channels_endpoint == "https://api-manage-broadcast.push.apple.com:2196"
    sandbox = Config(**KEY, environment="sandbox", broadcast_endpoint="https://b.example/")
    assert sandbox.broadcast_endpoint == "https://b.example"
    assert sandbox.channels_endpoint == "https://api-manage-broadcast.sandbox.push.apple.com:2195"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"topic": ""}, "topic: missing"),
        ({"topic": "com.example shop"}, "topic: expected a bundle id"),
        ({"key_file": ""}, "key_file: missing; either `key_file`, `key_id` and `team_id`, or `cert_file`"),
        ({"key_id": ""}, "key_id: missing"),
        ({"team_id": ""}, "team_id: missing"),
        ({"team_id": "DEF 12"}, "team_id: expected letters and digits"),
        ({"cert_file": "/c.pem"}, "cert_file: give either"),
        ({"endpoint": "http://api.push.apple.com"}, "endpoint: must be https"),
        ({"endpoint": "https://api.push.apple.com/3/device"}, "endpoint: must hold nothing but"),
        ({"endpoint": "https://host:x"}, "endpoint: is not a URL"),
        ({"broadcast_endpoint": "host"}, "broadcast_endpoint: must be https"),
        ({"channels_endpoint": "https://host/1/apps"}, "channels_endpoint: must hold nothing but"),
        ({"connections": 0}, "connections"),
        ({"window": 0}, "window"),
        ({"environment": "test"}, "environment"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_section_says_which_key(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert({**KEY, **fields}, Config)


def test_no_secret_is_shown() -> None:
    assert "geheim" not in repr(Config(**CERT, cert_password="geheim"))


# --- the token key ------------------------------------------------------------------------------


def _wrong_keys() -> dict[str, bytes]:
    return {
        "is not a private key in PEM form": b"not a key",
        "is not a private key": pem(ec.generate_private_key(ec.SECP256R1()), b"password"),
        "is not a P-256 elliptic-curve key": pem(ec.generate_private_key(ec.SECP384R1())),
        "not a P-256": pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    }


def test_a_key_that_apns_cannot_use_is_refused_with_its_file_and_the_remedy(tmp_path: Path) -> None:
    for number, (says, data) in enumerate(_wrong_keys().items()):
        path = write(tmp_path / f"{number}.p8", data)
        config = Config(**{**KEY, "key_file": path})
        with pytest.raises(CredentialError, match=says) as caught:
            load_key(config)
        assert caught.value.path == path
        assert str(caught.value).startswith(f"{path} is not a ")
        assert "download the key again" in caught.value.remedy
        assert "BEGIN" not in str(caught.value)
        assert (found(config)[0].level, found(config)[0].what) == ("error", caught.value.placed)


def test_a_missing_file_names_the_key_of_the_configuration() -> None:
    with pytest.raises(CredentialError, match=r"/k\.p8: no such file \(correct `key_file`\)"):
        ProviderToken(Config(**KEY), Clock())
    with pytest.raises(CredentialError, match=r"^/ is a folder \(name the file in it by `key_file`\)"):
        ProviderToken(Config(**{**KEY, "key_file": "/"}), Clock())


def test_a_good_key_is_ok(tmp_path: Path) -> None:
    path, _ = write_p8(tmp_path)

    (finding,) = found(Config(**{**KEY, "key_file": path}))

    assert finding.level == "ok"
    assert finding.expires is None
    assert path in finding.what


def test_a_key_that_others_may_read_is_warned_about(tmp_path: Path) -> None:
    path, _ = write_p8(tmp_path)
    Path(path).chmod(0o644)

    warning = found(Config(**{**KEY, "key_file": path}))[1]

    assert (warning.level, warning.remedy) == ("warning", private_remedy(path, 0o644, os.geteuid(), os.geteuid()))


ROOT, SERVICE, OTHER = 0, 990, 1000
CHMOD = "chmod 600 key.p8"
CHOWN = "chown root:GROUP key.p8 && chmod 640 key.p8, with the group of the user that runs pushsvc"


@pytest.mark.parametrize(
    ("mode", "owner", "user", "remedy"),
    [
        (0o600, SERVICE, SERVICE, ""),
        (0o640, SERVICE, SERVICE, CHMOD),
        (0o644, SERVICE, SERVICE, CHMOD),
        # As a system service has them: root changes them, the group of the service reads them.
        (0o640, ROOT, SERVICE, ""),
        (0o640, ROOT, ROOT, ""),
        (0o640, OTHER, SERVICE, ""),
        (0o644, ROOT, SERVICE, CHOWN),
        (0o604, ROOT, ROOT, CHOWN),
        (0o644, OTHER, SERVICE, CHOWN),
    ],
)
def test_the_remedy_leaves_a_key_readable_for_the_service(mode: int, owner: int, user: int, remedy: str) -> None:
    assert private_remedy("key.p8", mode, owner, user) == remedy


@pytest.mark.parametrize(
    ("fields", "level", "says"),
    [
        ({"key_id": "ABC"}, "warning", "key_id 'ABC' does not have 10"),
        ({"topic": "com.example.shop.voip"}, "warning", "pushsvc adds itself"),
        ({"endpoint": "https://api.sandbox.push.apple.com"}, "error", "endpoint https://api.sandbox.push.apple.com is"),
        ({"broadcast_endpoint": "https://api.sandbox.push.apple.com"}, "error", "broadcast_endpoint https://api.sandb"),
        (
            {"channels_endpoint": "https://api-manage-broadcast.sandbox.push.apple.com:2195"},
            "error",
            "is Apple's for sandbox",
        ),
        ({"ca_file": "/no/such/ca.pem"}, "error", "/no/such/ca.pem cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_that_do_not_fit_are_pointed_out(tmp_path: Path, fields: dict[str, str], level: str, says: str) -> None:
    path, _ = write_p8(tmp_path)

    last = found(Config(**{**KEY, "key_file": path, **fields}))[-1]

    assert last.level == level
    assert says in last.what
    assert last.remedy


def test_a_key_that_cannot_be_read_hides_no_name_that_does_not_fit() -> None:
    said = [each.what for each in found(Config(**{**KEY, "key_file": "/no/AuthKey_ABCDE12345.p8", "team_id": "ABC"}))]

    assert len(said) == 3
    assert "/no/AuthKey_ABCDE12345.p8: no such file" in said[0]
    assert "the file name says key ABCDE12345" in said[1]
    assert "team_id 'ABC' does not have 10" in said[2]


def test_a_ca_file_without_a_certificate_is_an_error(tmp_path: Path) -> None:
    path, _ = write_p8(tmp_path)
    ca_file = write(tmp_path / "ca.pem", b"nothing")

    assert "holds no CA certificate" in found(Config(**{**KEY, "key_file": path, "ca_file": ca_file}))[-1].what


# --- the certificate ----------------------------------------------------------------------------


def _certificate_config(folder: Path, **options: Any) -> Config:
    certificate, key = make_certificate(**{"start": NOW - DAY, "end": NOW + 300 * DAY, **options})
    return Config(**{**CERT, "cert_file": write(folder / "c.pem", certificate_pem(certificate) + pem(key))})


def test_a_good_certificate_is_ok_and_says_when_it_ends(tmp_path: Path) -> None:
    (finding,) = found(_certificate_config(tmp_path))

    assert finding.level == "ok"
    assert finding.expires == (NOW + 300 * DAY).timestamp()
    assert "2027-03-28" in finding.what


@pytest.mark.parametrize(
    ("options", "level", "says"),
    [
        ({"end": NOW - DAY / 2}, "error", "expired on 2026-05-31"),
        ({"end": NOW + 10 * DAY}, "warning", "expires on 2026-06-11"),
        ({"start": NOW + DAY}, "error", "not valid yet"),
    ],
    ids=["expired", "soon", "not yet"],
)
def test_the_dates_of_a_certificate(tmp_path: Path, options: dict[str, Any], level: str, says: str) -> None:
    finding = found(_certificate_config(tmp_path, **options))[0]

    assert finding.level == level
    assert says in finding.what
    assert finding.remedy
    assert finding.expires is not None


def test_a_certificate_of_another_app_or_environment_is_pointed_out(tmp_path: Path) -> None:
    other = {"user_id": "com.example.other", "common_name": "Apple Push Services: com.example.other"}
    listed = {TOPICS: b"\x30\x12\x0c\x10com.example.shop"}

    assert levels(_certificate_config(tmp_path, **other)) == ["ok", "warning"]
    assert levels(_certificate_config(tmp_path, **other, extensions=listed)) == ["ok"]
    assert levels(_certificate_config(tmp_path, extensions={SANDBOX: b"\x05\x00"})) == ["ok", "error"]
    assert levels(_certificate_config(tmp_path, extensions={SANDBOX: b"\x05\x00", PRODUCTION: b"\x05\x00"})) == ["ok"]


def test_a_certificate_is_used_in_each_of_its_forms(tmp_path: Path) -> None:
    certificate, key = make_certificate(start=NOW - DAY, end=NOW + 300 * DAY)
    both = certificate_pem(certificate) + pem(key)
    forms: list[dict[str, Any]] = [
        {"cert_file": write(tmp_path / "both.pem", both)},
        {
            "cert_file": write(tmp_path / "cert.pem", certificate_pem(certificate)),
            "cert_key_file": write(tmp_path / "key.pem", pem(key, b"geheim")),
            "cert_password": "geheim",
        },
        {"cert_file": write(tmp_path / "open.p12", p12(certificate, key, None))},
        {"cert_file": write(tmp_path / "shut.P12", p12(certificate, key, b"geheim")), "cert_password": "geheim"},
    ]
    for form in forms:
        config = Config(topic="com.example.shop", **form)
        assert isinstance(client_context(config), ssl.SSLContext)
        assert [finding.level for finding in found(config)] == ["ok"], form["cert_file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "both.pem",
        "cert.pem",
        "key.pem",
        "open.p12",
        "shut.P12",
    ]


def test_a_certificate_that_cannot_be_used_is_refused_without_asking_at_the_terminal(tmp_path: Path) -> None:
    certificate, key = make_certificate(start=NOW - DAY, end=NOW + DAY)
    weak = p12(*make_certificate(start=NOW - DAY, end=NOW + DAY, bits=1024), None)
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"cert_file": write(tmp_path / "a.pem", certificate_pem(certificate))},
            "not a PEM certificate with its private",
        ),
        ({"cert_file": write(tmp_path / "b.pem", certificate_pem(certificate) + pem(key, b"x"))}, "cert_password"),
        ({"cert_file": write(tmp_path / "c.p12", p12(certificate, key, b"x"))}, "cert_password"),
        ({"cert_file": write(tmp_path / "d.p12", b"nothing")}, "is not a PKCS #12 file"),
        ({"cert_file": write(tmp_path / "weak.p12", weak)}, "EE_KEY_TOO_SMALL"),
        (
            {"cert_file": write(tmp_path / "e.pem", b"nothing")},
            "holds no certificate in PEM form|not a PEM certificate",
        ),
        ({"cert_file": str(tmp_path / "none.pem")}, "no such file"),
    ]
    for form, says in wrong:
        config = Config(topic="com.example.shop", **form)
        with pytest.raises(CredentialError, match=says) as caught:
            client_context(config)
        assert caught.value.path == form["cert_file"]
        assert levels(config) == ["error"]


def test_a_key_file_that_is_called_as_another_key_is_pointed_out(tmp_path: Path) -> None:
    """Apple hands keys out as AuthKey_ID.p8, and refuses a token that names another id."""
    path, _ = write_p8(tmp_path)
    named = tmp_path / "AuthKey_ZZZZ123456.p8"
    named.write_bytes(Path(path).read_bytes())
    named.chmod(0o600)
    reported = found(Config(**{**KEY, "key_file": str(named)}))
    assert [(each.level, "the file name says key ZZZZ123456" in each.what) for each in reported] == [
        ("ok", False),
        ("warning", True),
    ]
    right = found(Config(**{**KEY, "key_file": str(named), "key_id": "ZZZZ123456"}))
    assert [each.level for each in right] == ["ok"]


def test_a_p12_needs_no_folder_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(start=NOW - DAY, end=NOW + DAY)
    file = write(tmp_path / "shop.p12", p12(certificate, key, b"geheim"))

    def nowhere(*_: object, **__: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", nowhere)
    client_context(Config(topic="com.example.shop", cert_file=file, cert_password="geheim"))
