"""The section `[apps.NAME.webhook]`, and the checks of the receiver's URL and headers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from ..decoding import Rule
from ..model.signing import parse_secret
from ..model.status import EventKind
from .values import SPAN, Positive


class WebhookSettings(Struct, frozen=True, kw_only=True):
    """`[apps.NAME.webhook]`: the receiver of events. URL, headers and secrets are left out of `repr`."""

    url: str = ""
    secret: str = ""
    old_secret: str = ""
    """An additional secret to sign with, while receivers change to a new `secret`."""
    kinds: tuple[EventKind, ...] = ("feedback",)
    """Which events are sent: feedback events, and what devices report of pushes (`event`)."""
    headers: Annotated[dict[str, str], Rule(secret=True)] = {}
    """Headers that are sent with each call; their values are secrets."""
    allow_private: bool = False
    """Whether `http://`, and addresses outside of the public internet, may be called."""
    ca_file: str = ""
    batch: Annotated[int, Meta(ge=1, le=1000)] = 50
    """The maximum number of events in one call. An event is about 300 bytes; the specification recommends calls of less
    than 20 kB."""
    timeout: Annotated[float, Meta(gt=0, le=30)] = 15.0
    """Seconds. The specification recommends "somewhere between 15 and 30s". A process that stops waits no longer than
    this."""
    attempts: Annotated[int, Meta(ge=1, le=1000)] = 10
    retry_for: Annotated[int, Meta(ge=0), SPAN] = 3 * 86400
    """Seconds. Events that are younger are always sent again, and so are batches with fewer than `attempts` calls."""
    base: Positive = 1.0
    cap: Positive = 3600.0

    def __post_init__(self) -> None:
        if faults := [*self._faults()]:
            raise ValueError(*faults)

    def _faults(self) -> Iterator[str]:
        if self.url:
            yield from _url_faults(self.url, private=self.allow_private)
            if not self.secret:
                yield "secret: needed to sign the calls to `url`; `pushsvc webhooks secret` makes one"
        for name in ("secret", "old_secret"):
            if text := getattr(self, name):
                try:
                    parse_secret(text)
                except ValueError as error:
                    yield f"{name}: {error}"
        yield from _header_faults(self.headers)
        if not self.kinds:
            yield "kinds: expected `feedback`, `event` or both; an empty `url` switches the webhook off"
        if self.base > self.cap:
            yield "base: must not be greater than `cap`"

    def __repr__(self) -> str:
        return f"WebhookSettings(set={bool(self.url)})"


def _url_faults(url: str, *, private: bool) -> Iterator[str]:
    """Yield what is wrong with a receiver's URL. Does not quote it: its path may be a secret."""
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        yield "url: expected https://host/path"
        return
    if parts.scheme not in ("http", "https"):
        yield "url: expected empty, http:// or https://"
        return
    if not host or any(char.isspace() or not char.isprintable() for char in url):
        yield "url: expected https://host/path"
        return
    if user is not None or parts.fragment:
        yield "url: expected no user, password or fragment in it; the signature authenticates the call"
    if parts.scheme == "http" and not private:
        yield "url: expected https://; http:// only with `allow_private`"


_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""https://www.rfc-editor.org/rfc/rfc9110#section-5.1"""
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OWN_HEADERS: Final = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "date"),
        *("expect", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("traceparent", "user-agent"),
    }
)


def _header_faults(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with additional headers, at most one fault for each. Quotes no value."""
    seen = set()
    for name, value in headers.items():
        plain = name.lower()
        if not _HEADER.fullmatch(name):
            yield "headers: expected names of letters, digits and dashes, such as `Authorization`"
        elif plain in _OWN_HEADERS or plain.startswith("webhook-"):
            yield f"headers: `{name}` is set by pushsvc itself; leave it out"
        elif plain in seen:
            yield f"headers: `{name}` is given twice; upper and lower case are the same"
        elif not _HEADER_VALUE.fullmatch(value):
            yield f"headers: the value of `{name}` is empty, begins or ends with a space, or is not ASCII"
        seen.add(plain)
