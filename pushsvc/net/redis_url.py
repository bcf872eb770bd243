"""Validation of a Redis URL before redis-py parses it. Pure.

redis-py passes any option of a URL to its connection's constructor, and takes what follows an unescaped `/`, `#` or
`?` of a password for a path: the result is a TypeError, or a part of the password as a host in an error message.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl, urlsplit

SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
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


def check_redis_url(url: str, schemes: Collection[str] = SCHEMES) -> str:
    """Return the scheme of a valid URL. Raises `ValueError`, which never quotes the URL, because it may contain a
    password."""
    scheme, _, rest = url.partition("://")
    if scheme not in schemes or not rest:
        begins = ", ".join(f"{name}://" for name in schemes)
        raise ValueError(f"is not the URL of a Redis; write redis://localhost:6379/0, or begin with {begins}")
    if not _is_escaped(url, scheme, rest):
        characters = "@ as %40, / as %2F, # as %23, ? as %3F, : as %3A, % as %25"
        raise ValueError(f"holds an unescaped character of a user or password; percent-encode them: {characters}")
    known = _COMMON
    if scheme.startswith("rediss"):
        known |= _TLS
    if scheme.endswith("+sentinel"):
        known |= _SENTINEL
    for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True):
        if name in known:
            continue
        if name in _TLS:
            raise ValueError(f"the option {name} is of TLS; begin with {scheme.replace('redis', 'rediss')}://")
        # The name as well may be a part of a password.
        shown = name if name.isidentifier() and name.islower() else "something else"
        raise ValueError(f"unknown option {shown}; known: {', '.join(sorted(known))}")
    return scheme


def _is_escaped(url: str, scheme: str, rest: str) -> bool:
    """Return whether special characters behind `://` are escaped, so that the parts are what the author intended."""
    try:
        urlsplit(url)
    except ValueError:  # which quotes the password
        return False
    if scheme == "unix":
        return True
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
