"""How fast the simulator answers: requests a second, and CPU microseconds a request. Run it as a program.

The load is made beforehand: whole HTTP/2 frames, each with its own token and apns-id (or message), so that the sender
costs next to nothing and the simulator is what is measured. Verification and the record are on unless a row says
otherwise. With h2load installed (Debian: nghttp2-client), a row shows what a C client gets.

Measured in November 2026 on a shared machine of 2 cores, Python 3.11: APNs 82,000 to 96,000 requests/s at 9 to 11 us,
APNs 410 72,000/s at 12 us, FCM 77,000 to 101,000/s at 10 to 13 us, FCM 404 69,000/s at 14 us, without the record
115,000/s at 7.5 us; h2load got 68,000 to 86,000/s at 11 to 14 us.

CPU microseconds are the simulator process's own (getrusage), so other work on the machine blurs them little; the rate
is what one connection got while the sender had the other core.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import ssl
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlencode, urlsplit

import jwt
import msgspec
import uvloop
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder

from pushsvc.lab.simulator import Credentials, SimulatorHandle, apns_token, fcm_token, simulator_process

from .figures import record
from .machine import cores, pin

ALERT = {"aps": {"alert": {"title": "Order 7 shipped", "body": "Arrives on Friday"}, "sound": "default"}, "order": "7"}
STATIC = {0x88: 200, 0x8C: 400, 0x8D: 404, 0x8E: 500}  # HPACK: the statuses of the static table
WINDOW = 400  # requests in flight


def provider_token(credentials: Credentials) -> str:
    claims = {"iss": credentials.team_id, "iat": int(time.time())}
    return jwt.encode(claims, credentials.apns_key_file.read_text(), "ES256", {"kid": credentials.key_id})


def access_token(handle: SimulatorHandle) -> str:
    """As google-auth gets it: by a signed assertion."""
    import http.client

    account = msgspec.json.decode(handle.credentials.service_account_file.read_bytes())
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "aud": account["token_uri"],
        "scope": "https://www.googleapis.com/auth/firebase.messaging",
        "iat": now,
        "exp": now + 3600,
    }
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": jwt.encode(claims, account["private_key"], "RS256"),
    }
    context = ssl.create_default_context(cafile=str(handle.credentials.ca_file))
    connection = http.client.HTTPSConnection(urlsplit(handle.control_url).netloc, context=context)
    connection.request("POST", "/token", urlencode(form), {"Content-Type": "application/x-www-form-urlencoded"})
    answer = msgspec.json.decode(connection.getresponse().read())
    connection.close()
    return cast(str, answer["access_token"])


Fields = list[tuple[str, str]]


def apns_requests(handle: SimulatorHandle, count: int, scenario: str | None) -> list[tuple[Fields, bytes]]:
    bearer, body = f"bearer {provider_token(handle.credentials)}", msgspec.json.encode(ALERT)
    tokens = (uuid.uuid4().hex * 2 if scenario is None else apns_token(scenario, str(n)) for n in range(count))
    return [
        (
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", f"/3/device/{token}"),
                (":authority", "127.0.0.1"),
                ("authorization", bearer),
                ("apns-topic", handle.credentials.topic),
                ("apns-push-type", "alert"),
                ("apns-priority", "10"),
                ("apns-id", str(uuid.uuid4())),
                ("apns-expiration", "1900000000"),
                ("apns-collapse-id", "order-7"),
            ],
            body,
        )
        for token in tokens
    ]


def fcm_requests(handle: SimulatorHandle, count: int, scenario: str | None) -> list[tuple[Fields, bytes]]:
    bearer = f"Bearer {access_token(handle)}"
    tokens = (f"dQw4w9WgXcQ:APA91b{n:0140d}" if scenario is None else fcm_token(scenario, str(n)) for n in range(count))
    fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", f"/v1/projects/{handle.credentials.project_id}/messages:send"),
        (":authority", "127.0.0.1"),
        ("authorization", bearer),
        ("content-type", "application/json"),
    ]
    message = {
        "notification": {"title": "Order 7 shipped", "body": "Arrives on Friday"},
        "data": {"order": "7"},
        "android": {"priority": "HIGH", "ttl": "3600s", "collapse_key": "order-7"},
    }
    return [(fields, msgspec.json.encode({"message": {"token": token, **message}})) for token in tokens]


def encoded(requests: Sequence[tuple[Fields, bytes]]) -> list[bytes]:
    """The frames of each request; the path and the authorisation are kept out of HPACK's table, as Apple advises."""
    encoder = Encoder()
    out = []
    for number, (fields, body) in enumerate(requests):
        stream = (2 * number + 1).to_bytes(4, "big")
        block = encoder.encode([(k, v, k in (":path", "apns-id") or len(v) > 300) for k, v in fields], huffman=False)
        head = len(block).to_bytes(3, "big") + b"\x01\x04" + stream
        out.append(head + block + len(body).to_bytes(3, "big") + b"\x00\x01" + stream + body)
    return out


class Sender(asyncio.Protocol):
    """Keeps `WINDOW` requests in flight, from frames made beforehand, and counts the answers by their status."""

    def __init__(self, frames: list[bytes], done: asyncio.Future[None]) -> None:
        self._frames, self._done = frames, done
        self._sent = self._answered = 0
        self._rest = b""
        self.statuses: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        h2 = H2Connection(H2Configuration(client_side=True))
        h2.initiate_connection()
        h2.increment_flow_control_window(2**30)
        self._transport.write(h2.data_to_send() + self._frames[0])
        self._sent = 1

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        position, end = 0, len(data)
        while end - position >= 9:
            length, kind, flags = (
                int.from_bytes(data[position : position + 3], "big"),
                data[position + 3],
                data[position + 4],
            )
            if position + 9 + length > end:
                break
            if kind == 1:
                first = position + 9
                status = STATIC.get(data[first]) or int(data[first + 2 : first + 5])
                self.statuses[status] = self.statuses.get(status, 0) + 1
            if kind in (0, 1) and flags & 1:
                self._answered += 1
            elif kind == 4 and not flags:
                self._transport.write(b"\x00\x00\x00\x04\x01\x00\x00\x00\x00")
            elif kind in (3, 7):
                self._done.set_exception(RuntimeError(f"frame type {kind}: {data[position + 9 : position + 60]!r}"))
                self._transport.close()
                return
            position += 9 + length
        self._rest = data[position:]
        more = min(self._answered + WINDOW, len(self._frames))
        if more > self._sent:
            self._transport.write(b"".join(self._frames[self._sent : more]))
            self._sent = more
        if self._answered == len(self._frames) and not self._done.done():
            self._done.set_result(None)


async def send(url: str, ca_file: Path, frames: list[bytes]) -> dict[int, int]:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context(cafile=str(ca_file))
    context.set_alpn_protocols(["h2"])
    done: asyncio.Future[None] = loop.create_future()
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 443
    transport, sender = await loop.create_connection(lambda: Sender(frames, done), host, port, ssl=context)
    await done
    transport.close()
    return sender.statuses


def cpu(handle: SimulatorHandle) -> float:
    return cast(float, handle.state()["process"]["cpu_seconds"])


def report(name: str, count: int, seconds: float, used: float) -> None:
    per_request = used / count * 1e6
    record(name, "us", per_request)
    print(f"{name:<34} {count / seconds:>9,.0f}/s {per_request:>8.1f} us CPU {count / used:>9,.0f}/s a core")


def measure(
    handle: SimulatorHandle, name: str, platform: str, count: int, status: int = 200, scenario: str | None = None
) -> None:
    make = apns_requests if platform == "apns" else fcm_requests
    frames = encoded(make(handle, count, scenario))
    url = handle.apns_url if platform == "apns" else handle.fcm_url
    before, start = cpu(handle), time.perf_counter()
    statuses = uvloop.run(send(url, handle.credentials.ca_file, frames))
    seconds, used = time.perf_counter() - start, cpu(handle) - before
    if statuses != {status: count}:
        raise RuntimeError(f"{name}: the answers' statuses are {statuses}")
    report(name, count, seconds, used)


def measure_h2load(handle: SimulatorHandle, count: int) -> None:
    program = shutil.which("h2load")
    if program is None:
        print("h2load                             not installed")
        return
    with tempfile.NamedTemporaryFile() as body:
        body.write(msgspec.json.encode(ALERT))
        body.flush()
        headers = {
            "authorization": f"bearer {provider_token(handle.credentials)}",
            "apns-topic": handle.credentials.topic,
            "apns-push-type": "alert",
        }
        given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
        url = f"{handle.apns_url}/3/device/{'ab' * 32}"
        before, start = cpu(handle), time.perf_counter()
        run = subprocess.run(
            [program, "-n", str(count), "-c", "2", "-m", "200", "-d", body.name, *given, url],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, used = time.perf_counter() - start, cpu(handle) - before
    if f"status codes: {count} 2xx" not in run.stdout:
        raise RuntimeError(run.stdout)
    report("APNs by h2load, 2 connections", count, seconds, used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60_000)
    count: int = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        flags = {"fcm_streams": 1000, "token_updates": False}
        with simulator_process(Path(folder), **flags) as handle:
            every = cores()
            pin(handle.pid, every[-1:])
            pin(0, every[:1])
            measure(handle, "APNs", "apns", count)
            measure(handle, "APNs, 410 Unregistered", "apns", count, 410, "Unregistered")
            measure(handle, "FCM", "fcm", count)
            measure(handle, "FCM, 404 UNREGISTERED", "fcm", count, 404, "UNREGISTERED")
            measure_h2load(handle, count)
            rss = handle.state()["process"]["max_rss_kib"] / 1024
            print(
                f"peak memory of the simulator after {handle.record()['apns']['total']:,} pushes to APNs: {rss:.0f} MiB"
            )
        with simulator_process(Path(folder), record=False, **flags) as handle:
            pin(handle.pid, every[-1:])
            measure(handle, "APNs, no record", "apns", count)


if __name__ == "__main__":
    main()
