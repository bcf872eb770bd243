"""Connect tokens: who may connect, and what every other token is answered with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, strategies as st

from pushsvc.live.config import LiveAppConfig
from pushsvc.live.protocol import codes
from pushsvc.live.protocol.tokens import MAX_LENGTH, UNKNOWN_APP, Claims, Rejected, Verifier, issue

SECRET = "a secret of at least thirty-two bytes"
OTHER = "another secret, as long as the first is"
NOW = 1_700_000_000.0
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


VERIFIER = Verifier(
    {
        "shop": LiveAppConfig(secret=SECRET),
        "ec": LiveAppConfig(public_key=public(EC_KEY)),
        "rsa": LiveAppConfig(public_key=public(RSA_KEY)),
        "both": LiveAppConfig(secret=SECRET, public_key=public(EC_KEY)),
        "none": LiveAppConfig(),
    }
)
PAYLOAD = {"sub": "d1", "app": "shop", "exp": NOW + 60, "iat": NOW, "jti": "j1"}


def signed(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    payload = {name: value for name, value in (PAYLOAD | changes).items() if value is not None}
    encoded = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": algorithm, "typ": "JWT"} | (headers or {}), payload)
    ]
    if algorithm == "HS256":  # by hand: PyJWT makes no token with a wrong payload, or with a public key as a secret
        digest = hmac.new(key.encode(), ".".join(encoded).encode(), hashlib.sha256).digest()
        return ".".join([*encoded, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()])
    if algorithm == "none":
        return ".".join([*encoded, ""])
    return jwt.encode(payload, key, algorithm=algorithm)


@pytest.mark.parametrize(
    ("token", "claims"),
    [
        (signed(), Claims("shop", "d1", NOW + 60, int(NOW * 1000), "j1")),
        (signed(iat=None, jti=None), Claims("shop", "d1", NOW + 60)),
        (signed(iat=NOW - 0.25), Claims("shop", "d1", NOW + 60, int(NOW * 1000) - 250, "j1")),
        (signed(EC_KEY, "ES256", app="ec"), Claims("ec", "d1", NOW + 60, int(NOW * 1000), "j1")),
        (signed(RSA_KEY, "RS256", app="rsa"), Claims("rsa", "d1", NOW + 60, int(NOW * 1000), "j1")),
        (signed(app="both"), Claims("both", "d1", NOW + 60, int(NOW * 1000), "j1")),
        (signed(EC_KEY, "ES256", app="both"), Claims("both", "d1", NOW + 60, int(NOW * 1000), "j1")),
        (
            issue("shop", "d1", SECRET, now=NOW, ttl=60, token_id="j1"),
            Claims("shop", "d1", NOW + 60, int(NOW * 1000), "j1"),
        ),
    ],
)
def test_a_valid_token(token: str, claims: Claims) -> None:
    assert VERIFIER.verify(token, NOW) == claims


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        signed()[:-2],
        signed() + "x" * MAX_LENGTH,
        signed(OTHER),
        signed(app="none"),
        signed(app=None),
        signed(app=["shop"]),
        signed(sub=None),
        signed(sub=""),
        signed(sub=7),
        signed(jti=7),
        signed(exp=None),
        signed(exp="soon"),
        signed(exp=True),
        signed(exp=1e300),
        signed(iat=NOW + 31),
        signed(iat=-1),
        signed(nbf=NOW + 31),
        signed(algorithm="none"),
        signed(algorithm="none", headers={"alg": "NONE"}),
        signed(public(EC_KEY), app="ec"),  # the public key as a secret
        signed(public(RSA_KEY), app="rsa"),
        signed(app="ec"),
        signed(RSA_KEY, "RS256", app="ec"),
        signed(RSA_KEY, "PS256", app="rsa"),
        signed(EC_KEY, "ES256"),
        signed(headers={"crit": ["b64"], "b64": False}),
        signed(headers={"crit": None}),
        signed(headers={"kid": None}),
        jwt.encode(PAYLOAD, SECRET * 2, algorithm="HS512"),
    ],
)
def test_an_invalid_token(token: str) -> None:
    assert VERIFIER.verify(token, NOW) == Rejected(codes.INVALID_TOKEN)


@pytest.mark.parametrize("token", [signed(app="unknown"), signed(OTHER, app="unknown", exp=NOW - 1)])
def test_a_token_of_an_app_that_is_not_configured_yet(token: str) -> None:
    assert VERIFIER.verify(token, NOW) == UNKNOWN_APP
    assert Rejected(codes.INTERNAL) == UNKNOWN_APP
    assert codes.INTERNAL.temporary
    refreshed = VERIFIER.verify_refresh(token, NOW, Claims("shop", "d1", NOW))
    assert refreshed == Rejected(codes.INVALID_TOKEN), "an open connection is of an app that is known"


def test_a_token_that_has_expired_or_was_revoked() -> None:
    expired = Rejected(codes.TOKEN_EXPIRED, "shop", "d1")
    assert VERIFIER.verify(signed(exp=NOW), NOW) == expired
    assert VERIFIER.verify(signed(exp=NOW - 10**6, iat=0), NOW) == expired


def test_the_clock_of_who_signs_may_be_ahead() -> None:
    for ahead, passes in ((1, True), (30, True), (30.5, False)):
        for token in (signed(iat=NOW + ahead), signed(nbf=NOW + ahead)):
            assert isinstance(VERIFIER.verify(token, NOW), Claims) == passes


def test_a_secret_that_was_changed_verifies_what_it_signed_for_as_long_as_it_is_named() -> None:
    changed = Verifier({"shop": LiveAppConfig(secret=OTHER, old_secret=SECRET)})
    forgotten = Verifier({"shop": LiveAppConfig(secret=OTHER)})
    for token, verifier, passes in [
        (signed(), changed, True),
        (signed(OTHER), changed, True),
        (signed("a third secret, also as long as it must be"), changed, False),
        (signed(), forgotten, False),
    ]:
        assert isinstance(verifier.verify(token, NOW), Claims) == passes


def test_a_refresh_is_of_the_same_device() -> None:
    connected = Claims("shop", "d1", NOW)
    assert isinstance(VERIFIER.verify_refresh(signed(), NOW, connected), Claims)
    for other in (signed(sub="d2"), signed(app="both"), signed(OTHER), signed(sub="d2", exp=NOW - 1)):
        assert VERIFIER.verify_refresh(other, NOW, connected) == Rejected(codes.INVALID_TOKEN)
    # The error 109 would end the client for good; the disconnect makes it ask for a token.
    assert VERIFIER.verify_refresh(signed(exp=NOW), NOW, connected) == Rejected(codes.EXPIRED, "shop", "d1")


def test_every_key_of_a_file_verifies() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    file = f"the old one\n{public(EC_KEY)}\n{public(RSA_KEY)}{public(other)}"
    verifier = Verifier({"shop": LiveAppConfig(public_key=file)})
    for key, algorithm in ((EC_KEY, "ES256"), (other, "ES256"), (RSA_KEY, "RS256")):
        assert isinstance(verifier.verify(signed(key, algorithm), NOW), Claims)
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert verifier.verify(signed(stranger, "ES256"), NOW) == Rejected(codes.INVALID_TOKEN)


PRIVATE = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("pem", "what"),
    [
        (public(ed25519.Ed25519PrivateKey.generate()), "is neither an RSA key .* nor one of the curve P-256"),
        (public(ec.generate_private_key(ec.SECP384R1())), "is neither an RSA key .* nor one of the curve P-256"),
        (public(rsa.generate_private_key(65537, 1024)), "is an RSA key of 1,024 bits: RS256 needs 2,048"),  # refused
        (PRIVATE, "is a private key: give the gateway the public one"),
        (public(EC_KEY).replace("PUBLIC KEY", "CERTIFICATE"), "is not a public key in PEM"),
        (public(EC_KEY) + public(ec.generate_private_key(ec.SECP384R1())), "nor one of the curve P-256"),
        (public(EC_KEY) + "-----BEGIN PUBLIC KEY-----", "is not a public key in PEM"),
        ("ssh-ed25519 AAAA", "is not a public key in PEM"),
        (" ", "is not a public key in PEM"),
    ],
)
def test_another_kind_of_key_is_a_fault_of_the_configuration(pem: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        Verifier({"shop": LiveAppConfig(public_key=pem)})
    assert pem.strip() not in str(caught.value) or not pem.strip()


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_token_or_invalid(text: str) -> None:
    assert VERIFIER.verify(text, NOW) == Rejected(codes.INVALID_TOKEN)


@given(st.data())
def test_no_changed_byte_of_a_token_passes(data: st.DataObject) -> None:
    token = signed()
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda each: each != token[at]))
    assert isinstance(VERIFIER.verify(token[:at] + letter + token[at + 1 :], NOW), Rejected)


LETTERS = st.text('abcXYZ019-_.=+/ \n{}"', max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def is_genuine(token: str) -> bool:
    """Whether PyJWT, which reads tokens with its own code, finds the signature right."""
    try:
        jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_signature": True, "verify_exp": False})
    except jwt.PyJWTError:
        return False
    return True


@given(
    st.fixed_dictionaries({"app": st.just("shop") | JSON}, optional=dict.fromkeys(("sub", "exp", "iat", "x"), JSON)),
    st.dictionaries(st.sampled_from(["typ", "kid", "alg", "crit", "b64", "x"]), JSON, max_size=2),
    st.sampled_from([SECRET, OTHER]),
    st.tuples(st.integers(0, 300), st.integers(0, 3), LETTERS) | st.none(),
)
def test_what_passes_is_signed_by_the_judgement_of_another_reader(
    payload: dict[str, Any], headers: dict[str, Any], key: str, change: tuple[int, int, str] | None
) -> None:
    claims: dict[str, Any] = {**PAYLOAD, **payload}
    token = signed(key, headers=headers, **claims)
    if change is not None:
        at, gone, put = change
        token = token[:at] + put + token[at + gone :]
    verdict = VERIFIER.verify(token, NOW)
    if verdict not in (Rejected(codes.INVALID_TOKEN), UNKNOWN_APP):
        assert is_genuine(token)


@given(st.text(min_size=1, max_size=40), st.integers(0, 10**9), st.text(max_size=20))
def test_what_another_writer_signs_passes(device_id: str, lives: int, token_id: str) -> None:
    payload = {"app": "shop", "sub": device_id, "exp": NOW + 1 + lives, "iat": NOW, "jti": token_id, "aud": "x"}
    for headers in (None, {"kid": "k1"}, {"typ": "at+jwt"}):
        token = jwt.encode(payload, SECRET, algorithm="HS256", headers=headers)
        assert VERIFIER.verify(token, NOW) == Claims("shop", device_id, NOW + 1 + lives, int(NOW * 1000), token_id)


@pytest.mark.parametrize("spoil", ["{}=", "{}\n", " {}", "{}.", ".{}", "{}A", "{}-"])
def test_a_token_has_one_form(spoil: str) -> None:
    assert VERIFIER.verify(spoil.format(signed()), NOW) == Rejected(codes.INVALID_TOKEN)
    head, claims, signature = signed().split(".")
    last = chr(ord(signature[-1]) + 1)  # its lowest bits have no meaning, and decoders pass over them
    assert VERIFIER.verify(f"{head}.{claims}.{signature[:-1]}{last}", NOW) == Rejected(codes.INVALID_TOKEN)


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(VERIFIER) + repr(LiveAppConfig(secret=SECRET))


@given(st.integers(1_600_000_000_000, 4_000_000_000_000))
def test_a_token_says_to_the_millisecond_when_it_was_issued(at: int) -> None:
    claims = VERIFIER.verify(issue("shop", "d1", SECRET, now=at / 1000, ttl=60, token_id="j1"), at / 1000)
    assert isinstance(claims, Claims)
    assert (claims.issued_at, claims.expires_at) == (at, at // 1000 + 60)
