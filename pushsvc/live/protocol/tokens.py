"""Connect tokens: JSON Web Tokens that name an app and one of its devices.

A token is signed with the app's secret (HS256), or with a private key whose public half the app is configured with
(ES256 or RS256). Which algorithm is right follows from the key and never from the token, so that neither `none` nor a
public key that is taken for a secret passes. Tokens stand in no `repr` and in no error.

Source: RFC 7519; RFC 8725, Best Current Practices
"""

from __future__ import annotations

import base64
import hmac
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeAlias, TypeGuard

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm
from msgspec import UNSET, Struct

from ..config import LiveAppConfig
from .codes import EXPIRED, INTERNAL, INVALID_TOKEN, TOKEN_EXPIRED, Refusal

MAX_LENGTH: Final = 4096
"""A longer token is invalid, and is not looked at."""
LEEWAY: Final = 30.0
"""Seconds by which a token may be issued in the future. An invalid token ends an official client permanently, and a
clock that is a second ahead is common."""
_is_base64url: Final = re.compile(r"[A-Za-z0-9_-]*").fullmatch


class Claims(Struct, frozen=True, gc=False):
    """The claims of a valid token."""

    app: str
    device_id: str
    expires_at: float
    """In Unix seconds, like every instant of a token."""
    issued_at: int = 0
    """In Unix milliseconds, as revocations have it; 0 where the token has none."""
    id: str = ""


class Rejected(Struct, frozen=True, gc=False):
    """Why a token is not valid now."""

    refusal: Refusal
    app: str = ""
    device_id: str = ""
    """Whose token it is; empty if its signature is wrong."""


_INVALID: Final = Rejected(INVALID_TOKEN)
UNKNOWN_APP: Final = Rejected(INTERNAL)
"""A token of an app that is not configured here, whose signature nothing can verify. It may be configured soon: the API
issues tokens of a new app as soon as it has read the configuration, and gateways read it a moment later. An invalid
token ends an official client permanently, so it is asked to try again."""


class _Header(Struct, frozen=True, gc=False):
    alg: str
    kid: str = ""
    """Which key it is, where there are several: a string. Source: RFC 7515, section 4.1.4"""
    crit: object = UNSET
    """What a reader must understand: nothing is understood here. Source: RFC 7515, section 4.1.11"""
    b64: object = UNSET


PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey
Verify: TypeAlias = Callable[[bytes, str], bool]
"""Return whether a signature, as the token has it, is that of the bytes."""

_header = msgspec.json.Decoder(_Header).decode
_payload = msgspec.json.Decoder(dict[str, Any]).decode


class Verifier:
    """Verifies the tokens of all apps."""

    __slots__ = ("_keys",)

    def __init__(self, apps: Mapping[str, LiveAppConfig]) -> None:
        """Read the keys. Raises `ValueError` for what `public_keys` refuses."""
        self._keys = {app: _verifies(config) for app, config in apps.items()}

    def verify(self, token: str, now: float) -> Claims | Rejected:
        """Return the claims of a token, or why it is refused at the instant `now`."""
        payload = self._payload(token)
        if isinstance(payload, Rejected):
            return payload
        app, device_id, expires_at = payload["app"], payload.get("sub"), payload.get("exp")
        issued_at, not_before, token_id = payload.get("iat", 0), payload.get("nbf", 0), payload.get("jti", "")
        if not (isinstance(device_id, str) and device_id and isinstance(token_id, str)):
            return _INVALID
        if not (_is_instant(expires_at) and _is_instant(issued_at) and _is_instant(not_before)):
            return _INVALID
        if max(issued_at, not_before) > now + LEEWAY:
            return _INVALID
        if expires_at <= now:  # without leeway: the device then asks for another one
            return Rejected(TOKEN_EXPIRED, app, device_id)
        return Claims(app, device_id, expires_at, round(issued_at * 1000), token_id)

    def verify_refresh(self, token: str, now: float, connected: Claims) -> Claims | Rejected:
        """Return the claims of a new token of an open connection. One of another device is invalid.

        An expired one ends the connection, after which the client asks for a token; the error that answers a connect
        would end a client permanently.
        """
        claims = self.verify(token, now)
        if (claims.app, claims.device_id) != (connected.app, connected.device_id):
            return _INVALID
        if isinstance(claims, Rejected) and claims.refusal == TOKEN_EXPIRED:
            return Rejected(EXPIRED, claims.app, claims.device_id)
        return claims

    def _payload(self, token: str) -> dict[str, Any] | Rejected:
        """Return the payload of a token whose signature is that of its app."""
        if not token or len(token) > MAX_LENGTH:
            return _INVALID
        signed, _, signature = token.rpartition(".")
        header, _, claims = signed.partition(".")
        try:
            payload = _payload(_decoded(claims))
            algorithm, app = _algorithm(header), payload["app"]
            if isinstance(app, str) and app not in self._keys:
                return UNKNOWN_APP
            verify = self._keys[app].get(algorithm)
            if verify is None or not verify(signed.encode(), signature):
                return _INVALID
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError, RecursionError):
            return _INVALID
        return payload


def issue(app: str, device_id: str, secret: str, *, now: float, ttl: float, token_id: str) -> str:
    """Return a token of a device that is valid for `ttl` seconds from the instant `now`."""
    # With milliseconds: a revocation may lie within the same second. The product of floats is rounded first.
    issued_at = math.floor(round(now * 1000, 3)) / 1000
    claims = {"sub": device_id, "app": app, "iat": issued_at, "exp": math.floor(now + ttl), "jti": token_id}
    return jwt.encode(claims, secret, algorithm="HS256")


def _verifies(config: LiveAppConfig) -> dict[str, Verify]:
    """Return what verifies the tokens of an app, by the algorithm."""
    found: dict[str, Verify] = {}
    if config.secret:
        secrets = [secret.encode() for secret in (config.secret, config.old_secret) if secret]
        found["HS256"] = partial(_is_hs256, secrets)
    keys = public_keys(config.public_key) if config.public_key else []
    for name, kind in (("RS256", RSAPublicKey), ("ES256", EllipticCurvePublicKey)):
        if own := [key for key in keys if isinstance(key, kind)]:
            found[name] = partial(_is_signed, jwt.get_algorithm_by_name(name), own)
    return found


def _is_hs256(secrets: Sequence[bytes], signed: bytes, signature: str) -> bool:
    """Whether a signature is the one of HS256 by any of the secrets, which has one form only.

    Source: RFC 7515, appendix A.1. PyJWT takes many times as long, and a gateway verifies a token for each connect.
    """
    given = signature.encode()
    for secret in secrets:
        digest = hmac.digest(secret, signed, "sha256")
        if hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), given):
            return True
    return False


def _is_signed(algorithm: Algorithm, keys: Sequence[PublicKey], signed: bytes, signature: str) -> bool:
    """Whether a signature was made with the private half of any of the keys."""
    decoded = _decoded(signature)
    return any(algorithm.verify(signed, key, decoded) for key in keys)


def public_keys(pem: str) -> list[PublicKey]:
    """Return the keys of a file that verify RS256 or ES256: several, while one takes the place of another. Raises
    `ValueError` with what is there instead."""
    if "PRIVATE KEY-----" in pem:
        raise ValueError("is a private key: give the gateway the public one, as `openssl pkey -pubout` writes it")
    return [_public_key(block) for block in _BLOCK.findall(pem) or [pem]]


_BLOCK: Final = re.compile(r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL)


def _public_key(pem: str) -> PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is not a public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(key, RSAPublicKey):
        if key.key_size < _RSA_LEAST:
            raise ValueError(f"is an RSA key of {key.key_size:,} bits: RS256 needs {_RSA_LEAST:,}")
    elif not (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)):
        raise ValueError("is neither an RSA key (RS256) nor one of the curve P-256 (ES256)")
    return key


_RSA_LEAST: Final = 2048
"""Bits. Source: RFC 7518, section 3.3"""


@lru_cache(maxsize=64)
def _algorithm(header: str) -> str:
    """Return the algorithm that a header names; most tokens have the same one. Raises what `_header` does, and
    `ValueError` for extensions."""
    found = _header(_decoded(header))
    if found.crit is not UNSET or found.b64 is not UNSET:
        raise ValueError("The header has extensions.")
    return found.alg


def _decoded(part: str) -> bytes:
    """Return the bytes of a part of a token. Raises `ValueError` for what is not base64url without padding."""
    if not _is_base64url(part):
        raise ValueError("The part is not base64url.")
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _is_instant(value: object) -> TypeGuard[float]:
    """Whether a value is a number of seconds that a clock can show."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**40
