"""Creates a client with suitable limits from a Redis URL, and turns connection faults into `StoreError`, here alone.

`redis://`, `rediss://` (TLS) and `unix://` are redis-py's own forms. `redis+sentinel://host:port,host2/master/db` asks
the sentinels for the master (`rediss+sentinel://` uses TLS for it; user and password are the master's, those of the
sentinels are in `?sentinel_username=..&sentinel_password=..`), see `sentinels.py`. `redis+cluster://host:port,host2`
is a Redis Cluster. `urls.py` refuses invalid URLs.

redis-py's defaults are not used for three reasons: a read times out after 5 s, which breaks blocking reads; a failed
command is tried up to 10 times, which turns a dead server into a minute of silence; and an exhausted pool raises
instead of waiting. A command whose connection broke is tried once more, because each step of the store may safely run
twice. Commands that hand out entries of a stream are the exception: they use the client of `blocking`, which repeats
nothing, see `Link.read` and `queue.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from redis import Redis as SyncRedis, exceptions as faults
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry as SyncRetry

from ...errors import ABSENT_REDIS, SILENT_REDIS, ConfigError, StoreError, StoreUnavailable
from ...net.redis_url import check_redis_url
from ...telemetry import REDIS_ERRORS
from .packed import packed
from .sentinels import Sentinels, primary_client
from .sync_sentinels import SyncSentinels, sync_primary_client

Client: TypeAlias = Redis | RedisCluster

TIMEOUT: Final = 5.0
"""Seconds that a server may take to answer."""
SENTINEL_TIMEOUT: Final = 1.0
"""Seconds that a sentinel may take to answer. A silent one must not delay the answers of the others."""
_FORMS: Final = (
    "redis://host:6379/0, rediss://.., unix:///path, redis+sentinel://host:26379,host2/master/0, redis+cluster://.."
)
_CONNECTIONS = 64
"""The size of the pool. More concurrent round trips do not make one Redis faster; others wait for a free connection."""

PERMIT: Final = (
    "allow its user what the service needs: ACL SETUSER .. ~ps:* ~rq:* +@all -@dangerous +info +role +client"
)
"""What to do where the access list of Redis forbids something."""
_BROKEN = (RuntimeError, AttributeError, LookupError, TypeError)
"""What redis-py raises where a connection is lost while it uses it."""
_UNAVAILABLE = (
    faults.ConnectionError,
    faults.TimeoutError,
    faults.BusyLoadingError,
    faults.ReadOnlyError,
    faults.OutOfMemoryError,
    faults.ClusterError,
    faults.RedisClusterException,
    faults.TryAgainError,
    faults.AskError,
    faults.MovedError,
    OSError,
    TimeoutError,
)
# In front of the text, or in the middle of it: where Redis 6.2 says what stopped a script, and where redis-py says
# which command of a pipeline it was.
_FORBIDDEN = re.compile(r"user executing the script can't run this|ACL failure in script")
"""An access list that a command within a script is not on: outside of one that is a NOPERM."""
_UNAVAILABLE_CODE = re.compile(
    r"(?:^|[ '\"-])(?:MISCONF|NOREPLICAS|LOADING|MASTERDOWN|BUSY|UNBLOCKED|OOM|NOAUTH|READONLY|CLUSTERDOWN|TRYAGAIN"
    r"|NOGROUP|WRONGTYPE) "
    # Of a slot that moves, where a script makes the names of its keys from their prefix.
    r"|attempted to access a non local key"
    r"|" + _FORBIDDEN.pattern
)
_UNCONNECTED = re.compile(
    r"Error (?:(-?\d+)|Multiple exceptions: (.+?)) connecting to (.+?)\.(?: (Connect call failed \(.*?\))?|$)"
)
"""What redis-py says of a connection that could not be made; several exceptions where a name has several addresses."""
_DRIVER = ("redis.", "uvloop", "asyncio.")
"""Modules whose RuntimeErrors and the like mean that a connection was lost while they used it. uvloop writes to a
closed transport; redis-py uses a parser that a disconnect has removed."""


class StoreFaults:
    """Turns redis-py's exceptions into `StoreUnavailable`, or into `StoreError` if the server is reachable.

    A cancellation that redis-py swallows, as it does while connecting, is raised again: a cancelled task must not
    continue, least of all with a wait that nothing ends (redis/redis-py#2551). Each call of the store passes through
    here: a generator would take twice as long.
    """

    __slots__ = ("_before", "_task")

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        self._before = task.cancelling() if task is not None else 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._raise_if_cancelled()
            return
        raised = store_error(error)
        if raised is not None or isinstance(error, _BROKEN):
            self._raise_if_cancelled()
        if raised is None:
            return
        REDIS_ERRORS.inc()
        raise raised from error

    def _raise_if_cancelled(self) -> None:
        if self._task is not None and self._task.cancelling() > self._before:
            raise asyncio.CancelledError


store_faults: Final = StoreFaults


def store_error(error: BaseException) -> StoreError | None:
    """Return what an exception of redis-py says of Redis, or None for one that is not about Redis."""
    if isinstance(error, faults.NoPermissionError):
        return StoreUnavailable(f"Redis refused: {_short(error)}", PERMIT)
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(f"Redis is not available: {_short(error)}", _fix(error))
    if isinstance(error, faults.RedisError):
        message = f"Redis refused: {_short(error)}"
        if not _UNAVAILABLE_CODE.search(_message_of(error)):
            return StoreError(message)
        return StoreUnavailable(message, PERMIT if _FORBIDDEN.search(_message_of(error)) else "")
    if isinstance(error, _BROKEN) and _of_driver(error):
        return StoreUnavailable(f"Redis is not available: the connection was lost ({type(error).__name__})")
    return None


@contextmanager
def first_contact(url: str) -> Iterator[None]:
    """Give a `StoreUnavailable` of the block, in which this Redis is asked for the first time, the remedy that its URL
    shows."""
    try:
        yield
    except StoreUnavailable as error:
        error.fix = _url_fix(url, error) or error.fix
        raise


def _url_fix(url: str, error: StoreUnavailable) -> str:
    """Return what is to be corrected in the URL of a Redis that cannot be reached; empty where that is not known."""
    scheme, _, rest = url.partition("://")
    options = dict(parse_qsl(rest.partition("?")[2]))
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        if not os.access(options.get(name, os.curdir), os.R_OK):
            return f"{name} in redis.url names {options[name]}, which cannot be read: correct it, or its permissions"
    causes = tuple(_causes(error))
    if scheme.startswith("rediss") and any(isinstance(each, TimeoutError | faults.TimeoutError) for each in causes):
        plain = scheme.replace("rediss", "redis")
        return f"if this port is one without TLS, begin redis.url with {plain}://; if it is not, {SILENT_REDIS}"
    closed = any(isinstance(each, ConnectionResetError | EOFError) for each in causes)
    if closed and not scheme.startswith(("rediss", "unix")):
        return f"if this port is one for TLS, begin redis.url with {scheme.replace('redis', 'rediss')}://"
    if closed and scheme.startswith("rediss") and "ssl_certfile" not in options:
        return f"if it wants a certificate of its clients, {_OWN}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _tls_fix(error: ssl.SSLError) -> str:
    """Return what to do about a fault of TLS; empty where the cause is not known."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE_FIXES.get(error.verify_code, _NAME_CA)
    reason = error.reason or ""
    if "CERTIFICATE_REQUIRED" in reason:
        return _NAME_OWN
    if reason.startswith("NO_CERTIFICATE"):
        return "name a file with a certificate in PEM as ssl_ca_certs in redis.url"
    if reason == "WRONG_VERSION_NUMBER":
        return "if this port is one without TLS, begin redis.url with redis:// and not with rediss://"
    return ""


_NAME_CA: Final = "name the authority that signed its certificate: append ?ssl_ca_certs=/path/ca.pem to redis.url"
_OWN: Final = "append ?ssl_certfile=/path/own.pem&ssl_keyfile=/path/own.key to redis.url"
_NAME_OWN: Final = f"it wants a certificate of its clients: {_OWN}"
_OTHER_NAME: Final = "connect by a name that its certificate is for, or give it one for this name"
_CERTIFICATE_FIXES: Final = {
    9: "its certificate is not valid yet: look at this machine's clock",
    10: "renew the certificate of Redis",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
"""What to do about a certificate, by the code of OpenSSL."""


_GONE: Final = ("connecting to", "closed the connection", "closed by server")
"""Words of errors, of this package and of redis-py, about a server that has ended or was never there."""


def _fix(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and (fix := _tls_fix(cause)):
            return fix
    if isinstance(error, faults.AuthenticationError):
        return "correct user and password in redis.url"
    if isinstance(error, faults.ConnectionError | faults.RedisClusterException) and any(
        words in str(error) for words in _GONE
    ):
        return ABSENT_REDIS
    if isinstance(error, faults.TimeoutError | TimeoutError):
        return SILENT_REDIS
    return ""


def _of_driver(error: BaseException) -> bool:
    """Return whether the error was raised by redis-py or by its transport, rather than by the calling code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    return f"{module}.".startswith(_DRIVER) or "Transport closed" in str(error)


def _message_of(error: BaseException) -> str:
    """Return the message of an error, without the arguments that Redis quotes of an unknown command: one may be a
    token."""
    return str(error).split(", with args", 1)[0]


def _short(error: BaseException) -> str:
    silent = "it has not answered in time" if isinstance(error, TimeoutError) else type(error).__name__
    return _UNCONNECTED.sub(_why, _message_of(error)).rstrip(".")[:200] or silent


def _why(unconnected: re.Match[str]) -> str:
    """Return where no connection could be made, and why in the system's words where these are Python's."""
    number, several, at, pythons = unconnected.groups()
    numbers = re.findall(r"\[Errno (\d+)\]", several) if several else [number] if pythons else []
    return f"{at}: " + ", ".join(dict.fromkeys(os.strerror(int(each)) for each in numbers))


def open_redis(
    url: str, *, name: str, timeout: float = TIMEOUT, blocking: bool = False, sentinels: Sentinels | None = None
) -> Client:
    """Return a client that is not connected yet. Raises `ConfigError` for an invalid URL.

    `blocking` is for reads that wait: no time limit, no second try, as many connections as there are readers.
    `sentinels` are those of another client of the same URL, to be shared.
    """
    scheme = scheme_of(url)
    options = _options(name, scheme, timeout)
    if blocking:
        options |= {"socket_timeout": None, "retry": Retry(NoBackoff(), 0)}
    else:
        options["retry"] = Retry(ConstantBackoff(0.05), 1, (faults.ConnectionError,))
    try:
        if scheme.endswith("+cluster"):
            return _open_cluster(url, options)
        if scheme.endswith("+sentinel"):
            nodes, master, own, options = _watched(url, options, "redis.url")
            silence = min(SENTINEL_TIMEOUT, timeout)
            shared = sentinels or Sentinels(nodes, master, timeout=silence, options=own)
            return primary_client(shared, master, **options)
        pool: ConnectionPool
        if blocking:
            pool = ConnectionPool.from_url(url, max_connections=100_000, **options)
        else:
            pool = BlockingConnectionPool.from_url(url, max_connections=_CONNECTIONS, timeout=timeout, **options)
        pool.connection_class = packed(pool.connection_class)
        return Redis.from_pool(pool)
    except (ValueError, KeyError) as error:
        # The URL may hold a password, so the error names what is wrong but does not quote it.
        raise ConfigError("redis.url", f"cannot be read ({type(error).__name__})", f"use one of {_FORMS}") from None


def sentinels_of(client: Client) -> Sentinels | None:
    """Return the sentinels that the client asks, where it does."""
    pool = None if isinstance(client, RedisCluster) else client.connection_pool
    return pool.sentinel_manager if isinstance(pool, SentinelConnectionPool) else None


async def close_redis(client: Client) -> None:
    """Close the client, and what redis-py leaves open: the connections to the sentinels that it asked, and those to the
    nodes of a cluster after a fault of one of them."""
    await client.aclose()
    if isinstance(client, RedisCluster):
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")
    sentinels = sentinels_of(client)
    for sentinel in sentinels.sentinels if sentinels is not None else ():
        await sentinel.aclose()


def _options(name: str, scheme: str, timeout: float) -> dict[str, Any]:
    """Return the options of every connection. Its name, for CLIENT SETNAME, is printable ASCII without spaces."""
    options = {
        "client_name": "".join(char if "!" <= char <= "~" else "-" for char in f"pushsvc:{name}"),
        "protocol": 2,
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
    }
    return options if scheme == "unix" else {**options, "socket_keepalive": True}


def _nodes(netloc: str, port: int) -> list[tuple[str, int]]:
    """Parse `host:port,host2` into pairs. Raises `ValueError`."""
    nodes = []
    for part in netloc.rpartition("@")[2].split(","):
        split = urlsplit(f"//{part}")
        if not split.hostname:
            raise ValueError("a host is missing")
        nodes.append((split.hostname, split.port or port))
    return nodes


def _credentials(netloc: str) -> dict[str, str]:
    user, _, password = netloc.rpartition("@")[0].partition(":")
    found = {"username": unquote(user), "password": unquote(password)}
    return {key: value for key, value in found.items() if value}


def _tls_and_rest(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the URL's path, and its query read as redis-py reads that of a plain URL."""
    parts = urlsplit(url)
    query = urlencode([(key, value) for key, value in parse_qsl(parts.query) if not key.startswith("sentinel_")])
    scheme = "rediss" if parts.scheme.startswith("rediss") else "redis"
    extra: dict[str, Any] = dict(parse_url(urlunsplit((scheme, "host", "", query, ""))))
    del extra["host"]
    if extra.pop("connection_class", None) is not None:
        extra["ssl"] = True
    return parts.path, {**options, **extra, **_credentials(parts.netloc)}


def _watched(
    url: str, options: dict[str, Any], place: str
) -> tuple[list[tuple[str, int]], str, dict[str, Any], dict[str, Any]]:
    """Return what a URL says of a primary and its sentinels: where these are, its name there, and the options of
    connections to them and to the primary."""
    parts = urlsplit(url)
    path, kwargs = _tls_and_rest(url, options)
    master, _, db = path.strip("/").partition("/")
    if not master:
        raise ConfigError(
            place, "the name of the sentinels' master is missing", "redis+sentinel://host:26379/mymaster/0"
        )
    own = {key[len("sentinel_") :]: value for key, value in parse_qsl(parts.query) if key.startswith("sentinel_")}
    tls = bool(kwargs.pop("ssl", False))
    options = {"tls": tls, "db": int(db or 0), **kwargs}
    return _nodes(parts.netloc, 26379), unquote(master), {"protocol": 2, **own}, options


def _open_cluster(url: str, options: dict[str, Any]) -> RedisCluster:
    _, kwargs = _tls_and_rest(url, options)
    nodes = [ClusterNode(host, port) for host, port in _nodes(urlsplit(url).netloc, 6379)]
    return RedisCluster(startup_nodes=nodes, max_connections=100_000, **kwargs)


def scheme_of(url: str, place: str = "redis.url") -> str:
    """Return the scheme of a URL. Raises `ConfigError` for an invalid one, which it never quotes."""
    try:
        return check_redis_url(url)
    except ValueError as error:
        raise ConfigError(place, str(error)) from None


def check_jobs_url(url: str) -> str:
    """Return the scheme of a URL with which rq can work. Raises `ConfigError`."""
    scheme = scheme_of(url, "jobs.url")
    if scheme.endswith("+cluster"):
        raise ConfigError(
            "jobs.url", "rq does not run on a Redis Cluster", "set it to the URL of a Redis that is not a cluster"
        )
    return scheme


def open_sync_redis(url: str, *, name: str) -> SyncRedis:
    """Return a client for rq, which knows no event loop; not yet connected. Raises ConfigError, also for a cluster."""
    scheme = check_jobs_url(url)
    options = _options(name, scheme, TIMEOUT) | {"retry": SyncRetry(ConstantBackoff(0.05), 1)}
    try:
        if not scheme.endswith("+sentinel"):
            return SyncRedis.from_url(url, **options)
        nodes, master, own, options = _watched(url, options, "jobs.url")
        limits = {"socket_timeout": SENTINEL_TIMEOUT, "socket_connect_timeout": SENTINEL_TIMEOUT}
        return sync_primary_client(SyncSentinels(nodes, master, options={**limits, **own}), master, **options)
    except (ValueError, KeyError) as error:
        raise ConfigError("jobs.url", f"cannot be read ({type(error).__name__})", f"use one of {_FORMS}") from None
