"""`traces.Tracer` that sends spans to a collector by OTLP over HTTP, from a thread of its own.

A request that is not chosen costs the look at its `traceparent` and one random number. A span that is over is encoded
where it ends, or grows until the next batch if it is joined; the thread puts a batch into a message, so that requests
hardly wait for it. What does not fit into the queue, or cannot be sent, is dropped, counted and logged. Where the
collector is, what it is sent of the service, which requests are chosen and how many spans wait is read from the
standard environment: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

from __future__ import annotations

import gzip
import os
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from msgspec import Struct

from .. import __version__
from ..errors import ConfigError
from ..net.tls import client_context
from .otlp import encoded, message, new_id, resource
from .states import StateLog
from .traces import CURRENT, NAMELESS, Alike, Names, OpenSpan, Parent, Recorded

ENDPOINT: Final = "http://localhost:4318"
CLOSING: Final = 3.0
"""Seconds that the last spans have to be sent when the process ends."""
AGAIN: Final = (429, 502, 503, 504)
"""The answers after which the same spans are sent again."""
FIRST_WAIT: Final = 1.0
"""Seconds before that; each later wait is twice as long."""
EXPORT: Final = StateLog("traces", "traces_not_sent", "traces_still_not_sent", "traces_sent_again")
"""The state in which spans are lost; its lines have their number since it began, and the latest reason. It ends when
everything that waited was sent."""
FULL: Final = "more spans ended than OTEL_BSP_MAX_QUEUE_SIZE lets wait"

_IDS: Final = 1 << 64
_LOW: Final = _IDS - 1


class Sampling(NamedTuple):
    """Which requests are traced."""

    bound: int
    """Traces are chosen whose lower 64 bits are below this."""
    by_parent: bool = True
    """Whether a request within a trace is chosen where its caller records it."""


class Exporting(Struct, frozen=True, kw_only=True):
    """Where and how spans are sent. The `repr` omits the headers, which may have a secret."""

    url: str
    headers: Mapping[str, str]
    seconds: float
    """For which one batch is tried."""
    gzip: bool
    context: ssl.SSLContext | None
    queue: int
    """Spans that may wait."""
    batch: int
    delay: float
    """Seconds between two batches, unless one is full before."""

    def __repr__(self) -> str:
        return f"Exporting({urlsplit(self.url).hostname!r})"


def exporting(environment: Mapping[str, str]) -> Exporting:
    """Return how spans are sent by the environment. Raises `ConfigError` for a value that cannot be used."""

    def name_of(what: str) -> str:
        own = f"OTEL_EXPORTER_OTLP_TRACES_{what}"
        return own if environment.get(own) else f"OTEL_EXPORTER_OTLP_{what}"

    def of(what: str) -> str:
        return environment.get(name_of(what), "")

    def number(name: str, default: int) -> int:
        text = environment.get(name) or str(default)
        if not text.isascii() or not text.isdecimal() or not int(text):
            raise ConfigError(name, f"is not a positive whole number: {text!r}", "correct it, or leave it out")
        return int(text)

    url = of("ENDPOINT") or ENDPOINT
    if not url.startswith(("http://", "https://")):
        raise ConfigError(name_of("ENDPOINT"), "is not a URL that begins with http:// or https://", "correct it")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ConfigError(name_of("ENDPOINT"), "has a login, which is not sent", f"give it in {name_of('HEADERS')}")
    if not environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        url = f"{url.rstrip('/')}/v1/traces"
    compression = of("COMPRESSION") or "none"
    if compression not in ("gzip", "none"):
        raise ConfigError(name_of("COMPRESSION"), f"{compression!r} is not known", "give `gzip` or `none`")
    context = None
    if url.startswith("https:"):
        try:
            context = client_context(of("CERTIFICATE"))
            if of("CLIENT_CERTIFICATE"):
                context.load_cert_chain(of("CLIENT_CERTIFICATE"), of("CLIENT_KEY") or None)
        except OSError as error:
            raise ConfigError(
                name_of("CERTIFICATE"), f"cannot be used: {error.strerror}", "is it a PEM file?"
            ) from None
    most = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
    return Exporting(
        url=url,
        headers=_pairs(of("HEADERS")),
        seconds=number(name_of("TIMEOUT"), 10_000) / 1000,
        gzip=compression == "gzip",
        context=context,
        queue=most,
        batch=min(most, number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        delay=number("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000,
    )


def sampling(environment: Mapping[str, str], share: float) -> Sampling:
    """Return which requests are traced: by the environment where that says so, or else those of callers that record
    them and this share of all others. Raises `ConfigError`."""
    name = environment.get("OTEL_TRACES_SAMPLER", "")
    if not name:
        return Sampling(round(share * _IDS))
    text = environment.get("OTEL_TRACES_SAMPLER_ARG") or "1"
    shares = {"always_on": "1", "always_off": "0", "traceidratio": text}
    kind = name.removeprefix("parentbased_")
    if kind not in shares:
        known = ", ".join((*shares, *(f"parentbased_{each}" for each in shares)))
        raise ConfigError("OTEL_TRACES_SAMPLER", f"{name!r} is not known here", f"give one of {known}, or leave it out")
    try:
        wanted = float(shares[kind])
    except ValueError:
        wanted = -1.0
    if not 0 <= wanted <= 1:
        raise ConfigError(
            "OTEL_TRACES_SAMPLER_ARG", f"{text!r} is not a number from 0 to 1", "correct it, or leave it out"
        )
    return Sampling(round(wanted * _IDS), kind != name)


def described(environment: Mapping[str, str], part: str) -> dict[str, str]:
    """Return what collectors are sent of this process."""
    own = {
        "service.name": "pushsvc",
        "service.version": __version__,
        "service.instance.id": f"{part}-{os.getpid()}",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "pushsvc",
        "telemetry.sdk.version": __version__,
    }
    own |= _pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    name = environment.get("OTEL_SERVICE_NAME")
    return {**own, "service.name": name} if name else own


def _pairs(text: str) -> dict[str, str]:
    """Return `a=1,b=2` as pairs, with percent-encoding undone. What is no pair is left out."""
    pairs = [each.partition("=") for each in text.split(",")]
    return {unquote(key.strip()): unquote(value.strip()) for key, sign, value in pairs if sign and key.strip()}


class OtelTracer:
    """See `traces.Tracer`."""

    def __init__(self, share: float, part: str) -> None:
        """Read the environment, and start the thread. Raises `ConfigError`."""
        self._sampling = sampling(os.environ, share)
        to = exporting(os.environ)
        self._head = resource(described(os.environ, part), "pushsvc", __version__)
        self._send = Sender(to).send
        self._queue: deque[bytes] = deque(maxlen=to.queue)
        self._joined: dict[tuple[bytes, Alike, tuple[str, ...]], Recorded] = {}
        """The spans that grow until the next batch, by what each is alike with."""
        self._batch, self._delay = to.batch, to.delay
        self._changing = threading.Lock()
        self._pushed_out = 0
        """Spans that the queue had no room for and that are not reported yet."""
        self._lost = 0
        """Spans lost since `EXPORT` began."""
        self._in_hand = 0
        self._due = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def begin(self, parent: Parent | None = None) -> OpenSpan | None:
        bound, by_parent = self._sampling
        if parent is None:
            ids = random.getrandbits(192)  # of the trace, and of its first span
            if ids >> 64 & _LOW >= bound:
                return None
            return _Open(self, ids.to_bytes(24), b"")
        trace = parent.carried[:16]
        if not (parent.sampled if by_parent else int.from_bytes(trace[8:]) < bound):
            return None
        return _Open(self, trace + new_id(), parent.carried[16:])

    def record(self, span: Recorded, parent: bytes) -> None:
        if not span.joined:
            # A trace goes through several processes, and a span does not say which of them its parent is of.
            self.add(span, parent[:16], new_id(), parent[16:], remote=True)
            return
        key = (parent, span.alike, span.texts)
        with self._changing:
            found = self._joined.get(key)
            self._joined[key] = span if found is None else found.join(span)
        if len(self._joined) >= self._batch:
            self._end_joined()
            self._due.set()

    def _end_joined(self) -> None:
        with self._changing:
            ended, self._joined = self._joined, {}
        for (parent, _, _), span in ended.items():
            self.add(span, parent[:16], new_id(), parent[16:], remote=True)

    def add(self, span: Recorded, trace: bytes, own: bytes, parent: bytes, *, remote: bool) -> None:
        """Let a span be sent, in place of the oldest one where the queue is full. The ids are those of `encoded`."""
        try:
            found = encoded(span, trace, own, parent, remote=remote)
        except Exception as error:  # a request does not fail by its trace
            self._lose(1, f"a fault in encoding them: {type(error).__name__}")
            return
        queue = self._queue
        if len(queue) != queue.maxlen:
            queue.append(found)  # which is atomic
        else:
            with self._changing:
                self._pushed_out += len(queue) == queue.maxlen
                queue.append(found)
        if len(queue) == self._batch:
            self._due.set()

    def close(self) -> None:
        self._closing.set()
        self._due.set()
        self._thread.join(CLOSING)
        if self._thread.is_alive():
            self._lose(self._in_hand + len(self._queue) + len(self._joined), "the process ends before they are sent")

    def _run(self) -> None:
        while not self._closing.is_set():
            if len(self._queue) < self._batch:
                self._due.wait(self._delay)
            self._due.clear()
            self._send_waiting()
        self._send_waiting()  # what came since

    def _send_waiting(self) -> None:
        """Send what waits now, in batches."""
        self._end_joined()
        left, before = len(self._queue), self._lost
        if not left:
            return
        while left:
            with self._changing:
                batch = [self._queue.popleft() for _ in range(min(self._batch, left))]
                pushed_out, self._pushed_out = self._pushed_out, 0
            left -= len(batch)
            self._in_hand = len(batch)
            if pushed_out:
                self._lose(pushed_out, FULL)
            if why := self._try(batch):
                self._lose(len(batch), why)
            self._in_hand = 0
        if self._lost == before:
            self._lost = 0
            EXPORT.end()

    def _try(self, batch: Sequence[bytes]) -> str:
        """Send a batch, and return why it has failed; empty: it has not."""
        try:
            return self._send(message(batch, self._head), self._closing)
        except Exception as error:  # one batch that cannot be sent does not end the traces of the process
            return f"a fault in sending them: {type(error).__name__}"

    def _lose(self, spans: int, why: str) -> None:
        with self._changing:
            self._lost += spans
        EXPORT.begin(spans=self._lost, reason=why)


class _Open:
    """See `traces.OpenSpan`."""

    __slots__ = ("_before", "_numbers", "_parent", "_start", "_texts", "_tracer", "carried", "names")

    def __init__(self, tracer: OtelTracer, carried: bytes, parent: bytes) -> None:
        self._tracer = tracer
        self._parent = parent
        self._start = time.time_ns()
        self.carried = carried
        self._before = CURRENT.set(carried)
        self.note(NAMELESS, ())

    def note(self, names: Names, texts: tuple[str, ...], numbers: tuple[float, ...] = ()) -> None:
        self.names = names
        self._texts = texts
        self._numbers = numbers

    def end(self, alike: Alike) -> None:
        CURRENT.reset(self._before)
        carried, parent = self.carried, self._parent
        span = Recorded(alike, self._start, time.time_ns(), self._texts, self._numbers)
        self._tracer.add(span, carried[:16], carried[16:], parent, remote=bool(parent))


class _NoRedirects(HTTPRedirectHandler):
    """Makes a redirect a refusal: headers, which may have a secret, and spans go to no other address."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Sender:
    """Sends messages to a collector, by the proxy of the environment if it names one. Redirects are not followed."""

    def __init__(self, to: Exporting) -> None:
        self._to = to
        self._opener = build_opener(_NoRedirects, *(() if to.context is None else (HTTPSHandler(context=to.context),)))
        self._headers = {"User-Agent": f"pushsvc/{__version__}", **to.headers, "Content-Type": "application/x-protobuf"}
        if to.gzip:
            self._headers["Content-Encoding"] = "gzip"

    def send(self, body: bytes, stopping: threading.Event) -> str:
        """Send a message, again where the collector is busy unless the process is `stopping`, and return why it has
        failed; empty: it has not."""
        if self._to.gzip:
            body = gzip.compress(body)
        until, wait = time.monotonic() + self._to.seconds, FIRST_WAIT
        while True:
            status, why = self._post(body, max(0.1, until - time.monotonic()))
            left = until - time.monotonic()
            if status not in AGAIN or left <= 0 or stopping.wait(min(wait, left)):
                return why
            wait *= 2

    def _post(self, body: bytes, seconds: float) -> tuple[int, str]:
        request = Request(self._to.url, body, self._headers)  # noqa: S310  # it begins with http: or https:
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                answer.read()
        except HTTPError as refused:
            refused.close()
            return refused.code, f"the collector answers {refused.code}"
        except URLError as error:
            return 0, f"{error.reason}"
        except (HTTPException, ValueError) as error:  # their texts may quote the URL
            return 0, type(error).__name__
        except OSError as error:
            return 0, str(error) or type(error).__name__
        return 200, ""
