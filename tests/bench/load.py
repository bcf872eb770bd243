"""Load for an HTTP/1.1 server: `wrk`, a generator in C, which costs a few microseconds a request (Debian: wrk). Where
it is not installed, callers in Python take its place, which cost as much as what they measure, and results say so.

    python -m tests.bench.load URL BODY_FILE SEED PAUSE CONNECTIONS SECONDS [HEADER ..]    (the callers in Python)
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import quantiles
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import Struct

PLACE: Final = "@@"
"""The place of a token in a body: each request has fresh ones there, of 64 hexadecimal digits."""
SCRIPT: Final = Path(__file__).with_suffix(".lua")
WITHOUT: Final = "load: callers in Python, which share the machine with what is measured; install wrk for better ones"


class Post(Struct, frozen=True):
    """A request to send over and over. The body has `PLACE` for each token."""

    url: str
    body: str
    headers: Mapping[str, str] = {}


class Load(Struct, frozen=True):
    """What the callers saw: times in milliseconds."""

    tool: str
    requests: int
    seconds: float
    bad: int
    """Answers that were no success, and connections that failed."""
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Requests that were answered a second."""
        return self.requests / self.seconds


def put_load(post: Post, *, connections: int, seconds: float, rate: float = 0.0) -> Load:
    """Send the request over some connections, on each as soon as the last one is answered, or all together about `rate`
    times a second. Blocks meanwhile. Raises `RuntimeError` for an answer that is no success."""
    pause = round(connections / rate * 1000) if rate else 0
    headers = [f"{name}: {value}" for name, value in {"Content-Type": "application/json", **post.headers}.items()]
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(post.body)
        file.flush()
        words = [file.name, f"be{secrets.token_hex(3)}", str(pause)]
        if wrk := shutil.which("wrk"):
            given = [word for header in headers for word in ("-H", header)]
            options = [f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "30s"]
            command = [wrk, "-t1", *options, *given, "-s", str(SCRIPT), post.url, "--", *words]
        else:
            print(WITHOUT, file=sys.stderr)
            command = [sys.executable, "-m", "tests.bench.load", post.url, *words, str(connections), str(seconds)]
            command += headers
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
    found = msgspec.json.decode(done.stdout.splitlines()[-1], type=Load)
    if found.bad or not found.requests:
        raise RuntimeError(f"{post.url}: of {found.requests} requests {found.bad} failed\n{done.stdout}")
    return found


def generator() -> str:
    """Return the name of the generator that this machine has."""
    return "wrk" if shutil.which("wrk") else "Python"


# --- the callers in Python ------------------------------------------------------------------------


class Caller(asyncio.Protocol):
    """One connection that has at most one request under way."""

    def __init__(self, request: Callable[[], bytes], pause: float) -> None:
        self._request = request
        self._pause = pause
        self._sent_at = 0.0
        self.took: list[float] = []
        self.bad = 0
        self.running = True
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        self.bad += self.running

    def _send(self) -> None:
        if self.running and self.transport is not None:
            self._sent_at = time.perf_counter()
            self.transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        # An answer is small and comes in one segment.
        self.took.append(time.perf_counter() - self._sent_at)
        self.bad += not data.startswith(b"HTTP/1.1 2")
        if self._pause:
            asyncio.get_running_loop().call_later(self._pause * random.uniform(0.5, 1.5), self._send)
        else:
            self._send()


def requests_of(post: Post, seed: str) -> Callable[[], bytes]:
    """Return a function that makes the next request, with tokens that no other has."""
    parts = post.body.encode().split(PLACE.encode())
    numbers = itertools.count()
    where = urlsplit(post.url)
    length = sum(map(len, parts)) + 64 * (len(parts) - 1)
    lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in post.headers.items()]
    head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"

    def request() -> bytes:
        words = [parts[0]]
        for part in parts[1:]:
            words += (f"{seed}{next(numbers):056x}".encode(), part)
        return head + b"".join(words)

    return request


async def call(post: Post, seed: str, pause: float, connections: int, seconds: float) -> Load:
    """Send for some seconds."""
    request, where = requests_of(post, seed), urlsplit(post.url)
    loop, host, port = asyncio.get_running_loop(), where.hostname or "", where.port or 80
    callers = [Caller(request, pause) for _ in range(connections)]
    began = time.perf_counter()
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, host, port)  # type: ignore[misc]  # mypy cannot infer it
    await asyncio.sleep(seconds)
    passed = time.perf_counter() - began
    for caller in callers:
        caller.running = False
        if caller.transport is not None:
            caller.transport.close()
    took = [each for caller in callers for each in caller.took]
    cuts = quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    bad = sum(caller.bad for caller in callers)
    return Load("Python", len(took), passed, bad, cuts[49] * 1000, cuts[98] * 1000)


def main(words: list[str]) -> None:
    url, file, seed, pause, connections, seconds, *headers = words
    given = dict(header.split(": ", 1) for header in headers)
    post = Post(url, Path(file).read_text(), given)
    found = uvloop.run(call(post, seed, float(pause) / 1000, int(connections), float(seconds)))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
