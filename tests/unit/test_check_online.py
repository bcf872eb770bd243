"""What the answers of providers say about an account: `judge` of each provider, without a network."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from pushsvc.net.http2.exchange import Response
from pushsvc.providers import apns, fcm
from pushsvc.providers.apns import online as of_apple, remedies as of_apple_remedies
from pushsvc.providers.fcm import online as of_google, remedies as of_google_remedies
from pushsvc.providers.online import ProbeResult, judge_skew, unreached

from ..pages import PAGES

APNS = apns.Config(key_file="k.p8", key_id="ABCDEFGHIJ", team_id="KLMNOPQRST", topic="com.example.shop")
FCM = fcm.Config(service_account_file="account.json")


def answered(status: int, reason: str = "", skew: float = 0.0) -> ProbeResult:
    """What APNs answers."""
    return ProbeResult(Response(status, json.dumps({"reason": reason}).encode()), skew=skew)


def google(status: int, code: str, error_code: str = "") -> ProbeResult:
    """What FCM answers."""
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": error_code}]
    error = {"code": status, "status": code, "message": "..", "details": details if error_code else []}
    return ProbeResult(Response(status, json.dumps({"error": error}).encode()))


@pytest.mark.parametrize(
    ("asked", "level", "what", "remedy"),
    [
        (answered(400, "BadDeviceToken"), "ok", "accepts the credential for com.example.shop", ""),
        (answered(403, "InvalidProviderToken"), "error", "403 InvalidProviderToken", "correct `key_file`, `key_id`"),
        (answered(400, "TopicDisallowed"), "error", "400 TopicDisallowed", "may not send to this `topic`"),
        (answered(403, "ExpiredProviderToken", 3600.0), "error", "403 Expired", "clock is 3,600 s behind"),
        (answered(429, "TooManyRequests"), "warning", "the credential was not checked", "try again later"),
        (answered(503, "ServiceUnavailable"), "warning", "the credential was not checked", "try again later"),
        (answered(200), "warning", "says nothing about the credential", "try again later"),
        (ProbeResult(None, "h: connection refused"), "error", "cannot be reached: h: connection refused", "firewall"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_apple_says(asked: ProbeResult, level: str, what: str, remedy: str) -> None:
    found, *_ = of_apple.judge(APNS, asked, 0.0)
    assert (found.level, what in found.what, remedy in found.remedy) == (level, True, True), found


@pytest.mark.parametrize(
    ("asked", "level", "what", "remedy"),
    [
        (google(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), "ok", "accepts the account for shop-1", ""),
        (google(404, "NOT_FOUND", "UNREGISTERED"), "ok", "UNREGISTERED to a made-up token", ""),
        (google(403, "PERMISSION_DENIED"), "error", "403 PERMISSION_DENIED", "enable its API"),
        (google(404, "NOT_FOUND"), "error", "404 NOT_FOUND", "no such project"),
        (google(503, "UNAVAILABLE", "UNAVAILABLE"), "warning", "the account was not checked", "try again later"),
        (ProbeResult(None, "h: connect timed out"), "error", "cannot be reached: h: connect timed out", "firewall"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_google_says(asked: ProbeResult, level: str, what: str, remedy: str) -> None:
    found, *_ = of_google.judge(FCM, "shop-1", asked, 0.0)
    assert (found.level, what in found.what, remedy in found.remedy) == (level, True, True), found


@pytest.mark.parametrize(
    ("skew", "level", "what"),
    [(4.9, None, ""), (-30.0, "warning", "30 s ahead of that of h"), (90.0, "error", "90 s behind that of h")],
)
def test_a_clock_that_differs_is_named(skew: float, level: str | None, what: str) -> None:
    found = judge_skew(skew, "h")
    assert [each.level for each in found] == ([level] if level else [])
    assert all(what in each.what and each.remedy for each in found)


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [
        ("h: certificate verify failed: self-signed certificate", "`ca_file`"),
        ("h: the server does not speak HTTP/2 (it refused ALPN h2)", "`proxy`"),
        ("h: name look-up failed: Name or service not known", "`endpoint`"),
        ("h: connection refused", "firewall"),
        ("h: accepts the connection, but has not answered within 10 s", "status page"),
    ],
)
def test_the_cause_decides_the_remedy(trouble: str, remedy: str) -> None:
    found = unreached(trouble)
    assert (remedy in found.remedy, found.what.startswith("cannot be reached")) == (True, remedy != "status page")


@pytest.mark.parametrize(
    ("trouble", "named"),
    [
        ("h: the server closed the connection before it sent its SETTINGS", True),
        ("h: connection reset by peer", True),
        ("h: TLS failed: sslv3 alert certificate revoked", True),
        ("h: connection refused", False),
        ("h: certificate verify failed: self-signed certificate", False),
    ],
)
def test_a_connection_that_the_server_ends_may_be_because_of_our_certificate(trouble: str, named: bool) -> None:
    own = apns.Config(cert_file="shop.pem", topic="com.example.shop")
    (found,) = of_apple.judge(own, ProbeResult(None, trouble), 0.0)
    assert found.remedy.startswith("it may not accept shop.pem: ") is named
    (found,) = of_apple.judge(APNS, ProbeResult(None, trouble), 0.0)
    assert "it may not accept" not in found.remedy


def test_files_that_cannot_be_read_are_findings(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    own = apns.Config(key_file=missing, key_id="ABCDEFGHIJ", team_id="KLMNOPQRST", topic="com.example.shop")
    for asking in (
        of_apple.check_online(own),
        of_google.check_online(fcm.Config(service_account_file=missing)),
    ):
        (found,) = asyncio.run(asking)
        assert (found.level, missing in found.what) == ("error", True)


@pytest.mark.parametrize("remedies", [of_apple_remedies._REMEDIES, of_google_remedies._REMEDIES])
def test_the_runbook_has_each_reason_for_which_a_route_is_held(remedies: dict[str, str]) -> None:
    section = PAGES["guides/runbook.md"].partition("### Why a route is held")[2].partition("\n## ")[0]
    named = [re.escape(name).replace(re.escape(".."), ".*") for name in re.findall(r"`([\w.]+)`", section)]
    assert [reason for reason in remedies if not any(re.fullmatch(name, reason) for name in named)] == []
