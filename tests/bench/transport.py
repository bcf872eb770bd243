"""What a request costs: our HTTP/2 transport beside pyreqwest (Rust) and httpx (h2, Python). Run it as a program.

Each client runs in a process of its own, pinned to the first core; the server has the second one. A request is a POST
with about 400 bytes of header block and 200 bytes of body, as a push to APNs is. CPU microseconds are the client
process's own (getrusage), so other work on the machine blurs them little; the rate is bounded by the server as well.
The best of the rounds counts, and the clients take turns, so that a noisy neighbour meets all of them.

h2load (Debian: nghttp2-client) takes part where it is installed: a client in C that only makes load.

Servers: a sink that answers in the fewest bytes, the same one refusing each push with a body, and nghttpd (Debian:
nghttp2-server) where it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import gc
import ipaddress
import json
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pushsvc.net.http2.transport import HTTPS, POST, Answer, Pool, Response, authority, field, path

from .figures import record
from .machine import cores, pin

MODULE = "tests.bench.transport"
TOKEN = "ab" * 32
HEADERS = {
    "authorization": "bearer " + "x" * 180,
    "apns-topic": "com.example.shop",
    "apns-push-type": "alert",
    "apns-priority": "10",
    "apns-id": "8f3c1a22-3b4c-4d5e-8f90-123456789abc",
    "apns-expiration": "1900000000",
}
BODY = b'{"aps":{"alert":{"title":"Order 7 shipped","body":"Arrives on Friday"}}}'.ljust(200)
REFUSAL = b'{"reason":"Unregistered","timestamp":1700000000000}'


# --- clients ------------------------------------------------------------------------------------


class Meter:
    """CPU and wall time from the first request to the last answer."""

    def __init__(self) -> None:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), self._used()

    @staticmethod
    def _used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    def read(self, count: int) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, self._used() - self._cpu
        return {"rate": count / wall, "cpu_us": cpu / count * 1e6}


async def ours(port: int, ca: str, status: int, count: int, window: int, connections: int) -> dict[str, float]:
    context = ssl.create_default_context(cafile=ca)
    first = POST + HTTPS + authority(f"localhost:{port}")
    rest = b"".join(field(name, value) for name, value in HEADERS.items())
    loop = asyncio.get_running_loop()
    done, up = loop.create_future(), loop.create_future()
    left = unanswered = count

    def on_answer(token: str, answer: Answer) -> None:
        nonlocal unanswered
        unanswered -= 1
        if type(answer) is not Response or answer.status != status:
            done.set_exception(RuntimeError(f"answered {answer}"))
        elif not unanswered:
            done.set_result(None)

    async with Pool(
        f"https://localhost:{port}", ssl=context, connections=connections, window=window, request_timeout=60
    ) as pool:

        def fill() -> None:
            nonlocal left
            if pool.stats.connections_opened < connections:
                return
            if not up.done():
                up.set_result(None)
            elif left:
                batch = min(left, pool.room)
                left -= batch
                for _ in range(batch):  # each push builds its own path, as the provider does
                    pool.submit(first + path("/3/device/" + TOKEN) + rest, BODY, TOKEN, on_answer)

        pool.on_room(fill)
        while not up.done():
            fill()
            await asyncio.sleep(0.01)
        meter = Meter()
        fill()
        await done
        return meter.read(count)


async def _side_by_side(count: int, window: int, send: Callable[[], Awaitable[int]], status: int) -> dict[str, float]:
    """`window` tasks that send one request after the other: the cheapest way to use an awaitable client."""
    left = count

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            if (answered := await send()) != status:
                raise RuntimeError(f"answered {answered}")

    await send()
    meter = Meter()
    async with asyncio.TaskGroup() as group:
        for _ in range(window):
            group.create_task(work())
    return meter.read(count)


async def pyreqwest(port: int, ca: str, status: int, count: int, window: int, connections: int) -> dict[str, float]:
    from pyreqwest.client import ClientBuilder

    # Its TLS library takes no authority as a server's certificate; the handshake is not measured.
    builder = ClientBuilder().danger_accept_invalid_certs(True).http2(True).default_headers(HEADERS)
    url = f"https://localhost:{port}/3/device/{TOKEN}"
    async with builder.build() as client:

        async def send() -> int:
            response = await client.post(url).body_bytes(BODY).build().send()
            await response.bytes()
            return response.status

        return await _side_by_side(count, window, send, status)


async def httpx(port: int, ca: str, status: int, count: int, window: int, connections: int) -> dict[str, float]:
    import httpx

    url = f"https://localhost:{port}/3/device/{TOKEN}"
    context = ssl.create_default_context(cafile=ca)
    async with httpx.AsyncClient(http2=True, http1=False, verify=context, headers=HEADERS, timeout=60) as client:

        async def send() -> int:
            return (await client.post(url, content=BODY)).status_code

        return await _side_by_side(count, window, send, status)


async def h2load(port: int, ca: str, status: int, count: int, window: int, connections: int) -> dict[str, float]:
    """What a client in C needs, which makes all requests alike and keeps none of the answers."""
    with tempfile.NamedTemporaryFile() as body:
        body.write(BODY)
        body.flush()
        given = [word for name, value in HEADERS.items() for word in ("-H", f"{name}: {value}")]
        command = ["h2load", f"-n{count}", f"-c{connections}", f"-m{window}", "-d", body.name, *given]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        url = f"https://localhost:{port}/3/device/{TOKEN}"
        done = await asyncio.to_thread(subprocess.run, [*command, url], capture_output=True, text=True, check=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if not re.search(rf"status codes: .*\b{count} {status // 100}xx", done.stdout):
        raise RuntimeError(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"rate": count / wall, "cpu_us": cpu / count * 1e6}


Client = Callable[[int, str, int, int, int, int], Any]

# name: (client, event loop, requests, requests at once, connections)
CLIENTS: dict[str, tuple[Client, str, int, int, int]] = {
    "ours": (ours, "uvloop", 60_000, 1000, 1),
    "ours, 2 connections": (ours, "uvloop", 60_000, 1000, 2),
    "ours, 100 streams": (ours, "uvloop", 60_000, 100, 1),
    "ours, plain asyncio": (ours, "asyncio", 60_000, 1000, 1),
    "pyreqwest": (pyreqwest, "uvloop", 10_000, 200, 1),
    "httpx": (httpx, "uvloop", 1_500, 100, 1),
}
if shutil.which("h2load"):
    CLIENTS["h2load (C)"] = (h2load, "asyncio", 60_000, 1000, 1)


def run_client(name: str, port: int, ca: str, status: int, scale: float) -> None:
    client, loop, count, window, connections = CLIENTS[name]
    run = uvloop.run if loop == "uvloop" else asyncio.run
    result = run(client(port, ca, status, int(count * scale), window, connections))
    print(json.dumps(result))


# --- servers ------------------------------------------------------------------------------------

_HEAD = struct.Struct(">IBI")


class Sink(asyncio.Protocol):
    """Answers each request that ends, whatever it is."""

    def __init__(self, refuse: bool) -> None:
        self._refuse = refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._rest, self._unacked = b"", 0
        settings = struct.pack(">HIHI", 3, 1000, 4, 1 << 20)
        window = (1 << 30).to_bytes(4, "big")
        self._transport.write(_HEAD.pack(12 << 8 | 4, 0, 0) + settings + _HEAD.pack(4 << 8 | 8, 0, 0) + window)
        self._preface = 24

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position, end, out = self._preface, len(data), []
        self._preface = 0
        while end - position >= 9:
            head, flags, stream = _HEAD.unpack_from(data, position)
            if position + 9 + (head >> 8) > end:
                break
            position += 9 + (head >> 8)
            kind = head & 255
            if kind == 0 and flags & 1:
                self._unacked += head >> 8
                if self._refuse:
                    block = b"\x20\x08\x03410"
                    out += [_HEAD.pack(len(block) << 8 | 1, 4, stream), block]
                    out += [_HEAD.pack(len(REFUSAL) << 8, 1, stream), REFUSAL]
                else:
                    block = b"\x20\x88\x00\x07apns-id\x24" + b"8f3c1a22-3b4c-4d5e-8f90-123456789abc"
                    out += [_HEAD.pack(len(block) << 8 | 1, 5, stream), block]
            elif kind == 4 and not flags:
                out.append(_HEAD.pack(4, 1, 0))
        if self._unacked > 1 << 28:
            out.append(_HEAD.pack(4 << 8 | 8, 0, 0) + self._unacked.to_bytes(4, "big"))
            self._unacked = 0
        self._rest = data[position:]
        self._transport.write(b"".join(out))


def run_sink(certificate: str, refuse: bool) -> None:
    async def serve() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["h2"])
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Sink(refuse), "127.0.0.1", 0, ssl=context)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # until the parent is gone

    uvloop.run(serve())


@contextlib.contextmanager
def sink(certificate: str, refuse: bool) -> Iterator[int]:
    command = [sys.executable, "-m", MODULE, "--sink", certificate] + ["--refuse"] * refuse
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pin(process.pid, cores()[-1:])
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def nghttpd(folder: Path, certificate: str) -> Iterator[int]:
    (folder / "3/device").mkdir(parents=True)
    (folder / "3/device" / TOKEN).touch()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["nghttpd", "-n1", "-m1000", "-w20", "-W22", "-a127.0.0.1", f"-d{folder}", str(port)]
    process = subprocess.Popen([*command, certificate, certificate], stdout=subprocess.DEVNULL)
    try:
        pin(process.pid, cores()[-1:])
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


def make_certificate(file: Path) -> str:
    """A certificate for localhost that is its own authority, and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return str(file)


# --- the comparison -----------------------------------------------------------------------------


def measure(name: str, port: int, ca: str, status: int, scale: float) -> dict[str, float]:
    command = [sys.executable, "-m", MODULE, "--client", name, "--port", str(port), "--certificate", ca]
    command += ["--status", str(status), "--scale", str(scale)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr[-2000:]}")
    return cast(dict[str, float], json.loads(run.stdout.splitlines()[-1]))


def compare(server: str, port: int, ca: str, status: int, rounds: int, scale: float) -> None:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CLIENTS}
    for _ in range(rounds):
        for name, seen in results.items():
            seen.append(measure(name, port, ca, status, scale))
    print(f"\n{server}\n{'':<22}{'requests/s':>12}{'CPU us/request':>16}{'CPU, ours = 1':>15}")
    unit = min(result["cpu_us"] for result in results["ours"])
    for name, seen in results.items():
        cpu, rate = min(result["cpu_us"] for result in seen), max(result["rate"] for result in seen)
        print(f"{name:<22}{rate:>12,.0f}{cpu:>16.1f}{cpu / unit:>15.1f}", flush=True)
        record(f"{name}, {server}", "us", *(result["cpu_us"] for result in seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer requests than usual")
    parser.add_argument("--sink", help=argparse.SUPPRESS)
    parser.add_argument("--refuse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--certificate", help=argparse.SUPPRESS)
    parser.add_argument("--status", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sink:
        run_sink(given.sink, given.refuse)
    elif given.client:
        pin(0, cores()[:1])
        run_client(given.client, given.port, given.certificate, given.status, given.scale)
    else:
        with tempfile.TemporaryDirectory() as folder:
            certificate = make_certificate(Path(folder) / "localhost.pem")
            with sink(certificate, refuse=False) as port:
                compare("sink: 200, no body", port, certificate, 200, given.rounds, given.scale)
            with sink(certificate, refuse=True) as port:
                compare("sink: 410 with a body", port, certificate, 410, given.rounds, given.scale)
            if shutil.which("nghttpd"):
                with nghttpd(Path(folder), certificate) as port:
                    compare("nghttpd", port, certificate, 200, given.rounds, given.scale)


if __name__ == "__main__":
    main()
