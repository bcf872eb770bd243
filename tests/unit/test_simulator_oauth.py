"""The simulated OAuth token endpoint and its access tokens."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pushsvc.lab.simulator.oauth import (
    GOOGLE_AUDIENCE,
    GRANT_TYPE,
    AccessTokens,
    ServiceAccount,
    TokenError,
    verify_assertion,
)

NOW = 1_800_000_000.0
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
URI = "https://127.0.0.1:1/token"
ACCOUNT = ServiceAccount("a@example.com", KEY.public_key(), frozenset({URI, GOOGLE_AUDIENCE}))
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
CLAIMS: dict[str, Any] = {
    "iss": "a@example.com",
    "aud": GOOGLE_AUDIENCE,
    "scope": f"openid {SCOPE}",
    "iat": NOW,
    "exp": NOW + 3600,
}


def form(key: rsa.RSAPrivateKey = KEY, grant_type: str = GRANT_TYPE, **claims: Any) -> dict[str, str]:
    return {"grant_type": grant_type, "assertion": jwt.encode({**CLAIMS, **claims}, key, "RS256")}


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"aud": URI},
        {"scope": "https://www.googleapis.com/auth/cloud-platform"},
        {"iat": NOW - 3500, "exp": NOW + 100},
    ],
)
def test_right_assertions(claims: dict[str, Any]) -> None:
    verify_assertion(form(**claims), ACCOUNT, NOW)  # raises when it is not right
    with pytest.raises(TokenError):
        verify_assertion(form(**claims), ACCOUNT, NOW + 4000)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (form(OTHER_KEY), "invalid_grant", "Invalid JWT Signature"),
        (form(grant_type="password"), "unsupported_grant_type", "password"),
        (form(iss="b@example.com"), "invalid_grant", "account not found"),
        (form(aud="https://example.com"), "invalid_grant", "audience"),
        (form(scope="openid"), "invalid_scope", "scope"),
        (form(exp=NOW + 7200), "invalid_grant", "short-lived"),
        (form(iat=NOW - 7200, exp=NOW - 3600), "invalid_grant", "short-lived"),
        (form(iat=NOW + 600, exp=NOW + 4200), "invalid_grant", "short-lived"),
        ({"grant_type": GRANT_TYPE, "assertion": "nonsense"}, "invalid_grant", "Bad Request"),
        ({}, "unsupported_grant_type", "Invalid grant_type"),
    ],
)
def test_wrong_assertions(given: dict[str, str], error: str, message: str) -> None:
    with pytest.raises(TokenError, match=message) as caught:
        verify_assertion(given, ACCOUNT, NOW)
    assert caught.value.error == error


def bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()


def test_access_tokens_are_good_for_their_life() -> None:
    tokens = AccessTokens(b"secret", 60)
    token = tokens.issue(NOW)
    assert [tokens.authorises(bearer(token), now) for now in (NOW, NOW + 59, NOW + 61)] == [True, True, False]


def test_access_tokens_outlive_a_restart_with_the_same_secret() -> None:
    token = AccessTokens(b"secret", 60).issue(NOW)
    assert AccessTokens(b"secret", 60).authorises(bearer(token), NOW)
    assert not AccessTokens(b"other", 60).authorises(bearer(token), NOW)


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"Bearer x.y", b"Bearer \xff", b"Basic x", b"Bearer ya29.1.2.3.4"]
)
def test_what_was_never_issued_is_refused(header: bytes | None) -> None:
    assert not AccessTokens(b"secret", 60).authorises(header, NOW)


def test_revoked_tokens_are_refused_and_new_ones_are_not() -> None:
    tokens = AccessTokens(b"secret", 60)
    old = tokens.issue(NOW)
    assert tokens.authorises(bearer(old), NOW)
    tokens.revoke(NOW + 1)
    assert not tokens.authorises(bearer(old), NOW + 1)
    assert tokens.authorises(bearer(tokens.issue(NOW + 1)), NOW + 1)
