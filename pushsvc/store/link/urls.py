"""Validation of a Redis URL before redis-py parses it. Pure.

redis-py passes any option of a URL to its connection's constructor, and takes what follows an unescaped `/`, `#` or
`?` of a password for a path: the result is a TypeError, or a part of the password as a host in an error message.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from ...errors import ConfigError

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
FORMS: Final = (
    "redis://host:6379/0, rediss://.., unix:///path, redis+sentinel://host:26379,host2/master/0, redis+cluster://.."
)

_COMMON: Final = frozenset({"db", "username", "password", "health_check_interval", "socket_connect_timeout"})
_TLS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_ca_data",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_cert_reqs",
        "ssl_check_hostname",
        "ssl_min_version",
        "ssl_ciphers",
    }
)
_SENTINEL: Final = frozenset({"sentinel_username", "sentinel_password"})


def check_url(url: str, place: str = "redis.url") -> str:
    """Return the scheme of a valid URL. Raises `ConfigError`, which never quotes the URL, because it may contain a
    password."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ConfigError(place, "not the URL of a Redis", f"use one of {FORMS}")
    if scheme != "unix" and not _is_escaped(rest):
        raise ConfigError(
            place,
            "holds an unescaped character of a user or password",
            "percent-encode them: @ as %40, / as %2F, # as %23, ? as %3F, : as %3A, % as %25",
        )
    known = _COMMON
    if scheme.startswith("rediss"):
        known |= _TLS
    if scheme.endswith("+sentinel"):
        known |= _SENTINEL
    for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
        if name in known:
            continue
        if name in _TLS:
            raise ConfigError(
                place, f"the option {name} is of TLS", f"begin with {scheme.replace('redis', 'rediss')}://"
            )
        # The name as well may be a part of a password.
        shown = name if name.isidentifier() and name.islower() else "something else"
        raise ConfigError(place, f"unknown option {shown}", f"known: {', '.join(sorted(known))}")
    return scheme


def _is_escaped(rest: str) -> bool:
    """Return whether special characters behind `://` are escaped, so that the parts are what the author intended."""
    if "#" in rest:
        return False  # a Redis URL has no fragment
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    if authority.count("@") > 1 or "@" in path:
        return False
    if "@" in authority:
        return True
    # Without a user: what looks like a port must be one, or it is the beginning of a password.
    ports = (host.rpartition("]")[2].partition(":")[2] for host in authority.split(","))
    return all(not port or port.isdecimal() for port in ports) or "@" not in query
