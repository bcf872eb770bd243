"""The rule for web pages: whose pages may use the gateway. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit


def origin_rule(allowed: Sequence[str]) -> Callable[[str, str], bool]:
    """Return the function that decides whether a page of `origin` may use `host`, the value of the `Host` header.

    Allowed are no origin at all (programs that are no browser send none), the gateway's own host, and what `allowed`
    names: `https://shop.example`, `https://*.shop.example` for all below it, or `*` for every page.
    """
    pattern = re.compile("|".join(_pattern(each.lower()) for each in allowed) or "(?!)")

    def may(origin: str, host: str) -> bool:
        return not origin or _is_own(origin, host) or pattern.fullmatch(origin.lower()) is not None

    return may


def _pattern(allowed: str) -> str:
    return ".*" if allowed == "*" else re.escape(allowed).replace(r"\*", "[^/]*")


def _is_own(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower() != ""
