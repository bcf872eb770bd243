"""Signatures of webhooks against the vector that the specification's own libraries are tested with."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, strategies as st

from pushsvc.model.signing import parse_secret, sign, write_secret

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_vector_of_the_specification() -> None:
    """https://github.com/standard-webhooks/standard-webhooks/tree/main/libraries"""
    headers = sign([parse_secret(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_two_secrets_sign_side_by_side() -> None:
    old, new = parse_secret(SECRET), bytes(range(32))
    both = sign([new, old], "m", 1, b"{}")["webhook-signature"].split(" ")
    assert both == [sign([key], "m", 1, b"{}")["webhook-signature"] for key in (new, old)]


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_read_as_it_was_written(key: bytes) -> None:
    assert parse_secret(write_secret(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3cr3t",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "\n",
        "whsec_ü" + base64.b64encode(bytes(32)).decode(),
    ],
)
def test_what_is_no_secret_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="expected `whsec_` and the base64 of 24 to 64") as caught:
        parse_secret(text)
    assert not text.removeprefix("whsec_") or text not in str(caught.value)
