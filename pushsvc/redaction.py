"""Masking of secrets in logs and error texts: the last line of defence, not the first. Pure.

No caller passes a token or a key to a logger in the first place; this is for libraries that quote a request in an
error, and for mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

REDACTED: Final = "[redacted]"

_SECRET_WORDS = frozenset(
    {
        "token",
        "tokens",
        "fid",
        "authorization",
        "key",
        "keys",
        "secret",
        "secrets",
        "password",
        "passwd",
        "passphrase",
        "credential",
        "credentials",
        "cookie",
        "jwt",
        "assertion",
        "bearer",
        "p8",
        "pem",
    }
)
# These end or begin with a word from above and are safe, and a log without them would be of little use.
_SAFE_NAMES = frozenset(
    {"token_hash", "key_id", "key_file", "key_name", "token_ttl", "token_uri", "token_kind", "sort_key"}
)
_WORD_BREAKS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")

_SECRET_TEXT = re.compile(
    r"(?P<keep>\bbearer\s+|\bauthorization\W{1,4}(?:basic\s+|key=)?)[\w.~+/=:-]{12,}"  # an Authorization header
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\beyJ[\w-]{5,}\.[\w-]+\.[\w-]*"  # a JSON Web Token
    r"|(?<![\w-])[\w-]{6,200}:APA91b[\w-]+"  # an FCM registration token
    r"|(?P<user>://[^/\s:@]*:)[^/\s@]+(?=@)"  # a password within a URL
    r"|\b[0-9A-Fa-f]{64,}\b",  # an APNs device token, or the hash of a key
    re.IGNORECASE | re.DOTALL,
)

# One log line has few keys and all lines share them: each name is judged once.
_verdicts: dict[str, bool] = {}


def is_secret(name: str) -> bool:
    """Return whether a value under this name is to be kept out of logs and error texts."""
    verdict = _verdicts.get(name)
    if verdict is None:
        lower = name.lower()
        verdict = lower not in _SAFE_NAMES and not _SECRET_WORDS.isdisjoint(
            word.lower() for word in _WORD_BREAKS.split(name)
        )
        verdict = verdict or lower in {"apikey", "accesstoken", "devicetoken", "privatekey"}
        if len(_verdicts) < 4096:
            _verdicts[name] = verdict
    return verdict


def scrub_text(text: str) -> str:
    """Return the text with what looks like a secret in it masked: headers, keys, JSON Web Tokens, device tokens."""

    def mask(match: re.Match[str]) -> str:
        return (match["keep"] or match["user"] or "") + REDACTED

    return _SECRET_TEXT.sub(mask, text)


def _scrub(value: object) -> object:
    match value:
        case str():
            return scrub_text(value)
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(name): scrub_named(str(name), inner) for name, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_scrub(inner) for inner in value]
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case _:
            # Structs leave their secrets out of `repr`; written as JSON they would show every field.
            return scrub_text(repr(value))


def scrub_named(name: str, value: object) -> object:
    """Return the value of a field, masked if the name of the field says that it is secret; else parts of it that look
    like secrets are masked."""
    # `tokens=3` is a count; `password=12345` is not.
    if value is None or isinstance(value, bool) or (type(value) is int and name in ("tokens", "keys")):
        return value
    return REDACTED if is_secret(name) else _scrub(value)
