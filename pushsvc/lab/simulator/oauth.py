"""Google's OAuth token endpoint: exchanges a signed assertion for an access token. Pure: the clock is an argument.
Access tokens are signed instead of stored, so that they outlive a restart of the simulator. Source:
https://developers.google.com/identity/protocols/oauth2/service-account#httprest"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from msgspec import Struct

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GOOGLE_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""google-auth names this audience whatever the `token_uri` of the service account is."""
SCOPES: Final = frozenset(
    {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
)
_MAX_LIFE: Final = 3600  # seconds that an assertion may live
_SKEW: Final = 60


class TokenError(Exception):
    """The endpoint refuses: 400 with `error` and `error_description`, RFC 6749 section 5.2."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


class ServiceAccount(Struct, frozen=True):
    """The account that may request tokens, and the audiences of this endpoint."""

    client_email: str
    public_key: RSAPublicKey
    audiences: frozenset[str]


def verify_assertion(form: Mapping[str, str], account: ServiceAccount, now: float) -> None:
    """Check a token request: RS256, `iss`, `aud`, `scope`, `iat`, `exp`. Raises `TokenError`."""
    if form.get("grant_type") != GRANT_TYPE:
        raise TokenError("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
    try:
        claims: dict[str, Any] = jwt.decode(
            form.get("assertion", ""),
            account.public_key,
            algorithms=["RS256"],
            options={"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
    except jwt.InvalidSignatureError as error:
        raise TokenError("invalid_grant", "Invalid JWT Signature.") from error
    except (jwt.PyJWTError, ValueError) as error:
        raise TokenError("invalid_grant", "Bad Request") from error
    if claims.get("iss") != account.client_email:
        raise TokenError("invalid_grant", "Invalid grant: account not found")
    if claims.get("aud") not in account.audiences:
        raise TokenError("invalid_grant", "Invalid JWT: Failed audience check.")
    issued_at, expires_at = claims.get("iat"), claims.get("exp")
    if not isinstance(issued_at, int | float) or not isinstance(expires_at, int | float):
        raise TokenError("invalid_grant", "Invalid JWT: Token must have iat and exp.")
    if not issued_at - _SKEW <= now <= expires_at + _SKEW or expires_at - issued_at > _MAX_LIFE + _SKEW:
        raise TokenError(
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
        )
    if not SCOPES & set(str(claims.get("scope", "")).split()):
        raise TokenError("invalid_scope", "The scope must contain firebase.messaging or cloud-platform.")


class AccessTokens:
    """Issues and verifies access tokens."""

    def __init__(self, secret: bytes, life: int = 3599) -> None:
        self.life = life
        """Seconds for which a token is valid."""
        self._secret = secret
        self._known: dict[bytes, float] = {}  # the Authorization header's text: until when it is valid
        self._revoked_before = 0.0

    def issue(self, now: float) -> str:
        text = f"ya29.{round(now * 1000):x}.{round((now + self.life) * 1000):x}.{secrets.token_urlsafe(12)}"
        return f"{text}.{self._sign(text)}"

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()

    def authorises(self, authorization: bytes | None, now: float) -> bool:
        """Return whether the `Authorization` header contains a valid token of ours."""
        if authorization is None:
            return False
        until = self._known.get(authorization)
        if until is None:
            until = self._verify(authorization)
            if len(self._known) > 1024:
                self._known.clear()
            self._known[authorization] = until
        return now < until

    def _verify(self, authorization: bytes) -> float:
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        text, _, signature = token.rpartition(".")
        if scheme.lower() != "bearer" or not hmac.compare_digest(self._sign(text).encode(), signature.encode()):
            return 0.0
        _, issued, until, _ = text.split(".")
        return 0.0 if int(issued, 16) / 1000 < self._revoked_before else int(until, 16) / 1000

    def revoke(self, now: float) -> None:
        """Revoke all tokens that were issued until now."""
        self._revoked_before = now
        self._known.clear()
