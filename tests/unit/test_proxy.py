"""Which proxy stands on the way: the account's, the environment's as curl reads it, or none."""

from __future__ import annotations

import base64

import pytest

from pushsvc.errors import CredentialError
from pushsvc.net.proxy import parse_proxy, proxy_for
from pushsvc.providers.apns import Config as ApnsConfig
from pushsvc.providers.endpoint import check_proxy
from pushsvc.providers.fcm import Config as FcmConfig

APNS = "https://api.push.apple.com"


@pytest.mark.parametrize(
    ("environ", "url", "name"),
    [
        ({}, APNS, None),
        ({"https_proxy": "http://p:3128"}, APNS, "proxy p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, APNS, "proxy p:3128"),
        ({"https_proxy": "http://low:1", "HTTPS_PROXY": "http://up:1"}, APNS, "proxy low:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://up:1"}, APNS, "proxy up:1"),
        ({"https_proxy": "p:3128"}, APNS, "proxy p:3128"),
        ({"https_proxy": "http://p"}, APNS, "proxy p:1080"),
        ({"https_proxy": "http://[::1]:3128/"}, APNS, "proxy [::1]:3128"),
        ({"ALL_PROXY": "http://p:1"}, APNS, "proxy p:1"),
        ({"all_proxy": "http://p:1", "https_proxy": "http://q:1"}, APNS, "proxy q:1"),
        ({"http_proxy": "http://p:1"}, APNS, None),
        ({"http_proxy": "http://p:1"}, "http://tokens.internal/", "proxy p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://tokens.internal/", None),
        ({"https_proxy": "http://p:1", "no_proxy": "push.apple.com"}, APNS, None),
        ({"https_proxy": "http://p:1", "NO_PROXY": ".push.apple.com"}, APNS, None),
        ({"https_proxy": "http://p:1", "no_proxy": "localhost, APPLE.com ,x"}, APNS, None),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, APNS, None),
        ({"https_proxy": "http://p:1", "no_proxy": "ush.apple.com"}, APNS, "proxy p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "other", "NO_PROXY": "apple.com"}, APNS, "proxy p:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "127.0.0.1"}, "https://127.0.0.1:2197", None),
        ({"https_proxy": "http://p:1", "no_proxy": "127.0.0.0/8"}, "https://127.0.0.1:2197", None),
        ({"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8,[::1]"}, "https://[::1]:2197", None),
        ({"https_proxy": "http://p:1", "no_proxy": "10.0.0.0/8"}, "https://127.0.0.1:2197", "proxy p:1"),
    ],
)
def test_the_environment_is_read_as_curl_reads_it(environ: dict[str, str], url: str, name: str | None) -> None:
    """https://everything.curl.dev/usingcurl/proxies/env.html"""
    proxy = proxy_for(url, "", environ)
    assert (None if proxy is None else proxy.name) == name


def test_the_account_overrides_the_environment() -> None:
    environ = {"https_proxy": "http://p:1", "no_proxy": "*"}
    proxy = proxy_for(APNS, "http://own:2", environ)
    assert proxy is not None
    assert proxy.name == "proxy own:2"
    assert proxy_for(APNS, "none", {"https_proxy": "http://p:1"}) is None


def test_user_and_password_are_decoded_and_never_shown() -> None:
    proxy = parse_proxy("http://us%3Aer:p%40ss%2F%25@p:1")
    assert base64.b64decode(proxy.authorization.removeprefix("Basic ")) == b"us:er:p@ss/%"
    assert "p%40ss" not in repr(proxy) + proxy.name
    accounts = [
        ApnsConfig(topic="t", cert_file="c", proxy="http://u:hidden@p:1"),
        FcmConfig(service_account_file="f", proxy="http://u:hidden@p:1"),
    ]
    assert "hidden" not in repr(accounts)


@pytest.mark.parametrize(
    "text",
    ["https://p:1", "socks5://p:1", "http://", "http://p:0", "http://p:99999", "http://p/x", "http://u:hidden@w/x"],
)
def test_what_cannot_be_a_proxy_says_so_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^proxy: expected http://host:port") as refused:
        ApnsConfig(topic="t", cert_file="c", proxy=text)
    assert "hidden" not in str(refused.value)
    with pytest.raises(CredentialError) as variable:
        proxy_for(APNS, "", {"HTTPS_PROXY": text})
    assert variable.value.path == "HTTPS_PROXY"
    assert "hidden" not in str(variable.value)
    (finding,) = check_proxy(APNS, "", {"HTTPS_PROXY": text})
    assert finding.level == "error"


def test_check_says_the_way() -> None:
    (finding,) = check_proxy(APNS, "http://u:hidden@p:3128", {})
    assert finding.what == "reaches api.push.apple.com through the proxy p:3128"
    assert check_proxy(APNS, "", {}) == []
