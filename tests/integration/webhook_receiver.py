"""A receiver of webhooks, written from the guide alone with nothing but the standard library: a process of its own.

    python webhook_receiver.py PORT SECRET RECORD [PLAN]

RECORD is a file to which each call is added as a line of JSON, and from which a receiver that is started anew knows
what it has had. A reader may see a part of a line, and a kill may leave one: `noted` leaves it out, and the next
receiver removes it, because its call had no answer. PLAN is a JSON list of what to do with the first calls that are
genuine; later ones are answered 200:

    500, 429, ..        answer so, and have nothing
    "slow:1.5"          have it, and answer after so many seconds
    "lost"              have it, and hang up without an answer
    "to:http://.."      redirect there

It is not part of pushsvc, and imports nothing of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def genuine(secret: str, headers: Any, body: bytes) -> bool:
    """What the guide asks for before a call is taken."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        message, at, given = (headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        mac = hmac.new(key, digestmod=hashlib.sha256)
        for part in (message.encode(), b".", at.encode(), b".", body):
            mac.update(part)
        good = [hmac.compare_digest(f"v1,{base64.b64encode(mac.digest()).decode()}", each) for each in given.split(" ")]
        return any(good) and abs(time.time() - int(at)) < 300
    except (TypeError, ValueError, AttributeError):
        return False  # a header is missing, or is not what it should be


def noted(record: Path) -> list[dict[str, Any]]:
    """Return the calls of the lines that are complete."""
    whole = record.read_bytes() if record.exists() else b""
    return [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


class Receiver(ThreadingHTTPServer):
    """What it has had, and what it is to do next."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, secret: str, record: Path, plan: list[Any]) -> None:
        self.secret = secret
        self.record = record
        self.plan = plan
        self.seen: set[str] = set()
        for each in noted(record):
            self.seen.update(event["id"] for event in each.get("new", ()))
        if record.exists():
            os.truncate(record, record.read_bytes().rfind(b"\n") + 1)
        super().__init__(("127.0.0.1", port), Handler)

    def note(self, **reported: Any) -> None:
        with self.record.open("ab", buffering=0) as file:
            file.write(json.dumps(reported).encode() + b"\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:  # http.server's name
        body = self.rfile.read(int(self.headers["content-length"]))
        call = {"call": self.headers["webhook-id"], "at": self.headers["webhook-timestamp"]}
        if not genuine(self.server.secret, self.headers, body):
            self.server.note(**call, did="refused", answered=401)
            self.answer(401)
            return
        step = self.server.plan.pop(0) if self.server.plan else 200
        word, _, more = str(step).partition(":")
        if isinstance(step, int) and step != 200:
            self.server.note(**call, did=step, answered=step)
            self.answer(step, {"Retry-After": "1"} if step == 429 else {})
        elif word == "to":
            self.server.note(**call, did=step, answered=302)
            self.answer(302, {"Location": more})
        else:
            events = json.loads(body)["events"]
            new = [event for event in events if event["id"] not in self.server.seen]
            self.server.seen.update(event["id"] for event in new)
            self.server.note(**call, did=step, events=len(events), new=new, type=json.loads(body)["type"])
            if word == "slow":
                time.sleep(float(more))
            if word == "lost":
                self.close_connection = True
            else:
                self.answer(200)

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            self.close_connection = True  # the caller has not waited

    def log_message(self, *_: Any) -> None:
        """The record is the log."""


def main() -> None:
    port, secret, record, *plan = sys.argv[1:]
    Receiver(int(port), secret, Path(record), json.loads(plan[0]) if plan else []).serve_forever()


if __name__ == "__main__":
    main()
