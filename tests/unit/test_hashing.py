"""Tokens as hashes: what the limiter has made and what a row shows is the same hash, whichever asks first."""

from __future__ import annotations

from pushsvc.store.hashing import MADE, limiter_digests, token_hash, token_hasher

KEY = b"k" * 32


def test_a_row_shows_what_the_limiter_counts() -> None:
    digests, hashed = limiter_digests(KEY), token_hasher(KEY, str.lower)
    for tokens in (["AB", "cd"], [f"T{number}" for number in range(MADE + 2)], ["AB"]):
        counted = digests(tokens, str.lower)
        for _ in range(2):
            assert [hashed(token) for token in tokens] == [digest.hex() for digest in counted]
        assert [token_hash(KEY, token.lower()) for token in tokens] == [digest.hex() for digest in counted]


def test_another_key_or_form_is_another_hash() -> None:
    limiter_digests(KEY)(["AB"], str.lower)
    assert token_hasher(KEY, str)("AB") != token_hasher(KEY, str.lower)("AB")
    assert token_hasher(b"l" * 32, str.lower)("AB") != token_hasher(KEY, str.lower)("AB")
