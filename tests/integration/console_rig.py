"""The console before canned answers of the API: every page empty, full, stale and refused, without a service.

The pages, their files and their headers are the real ones. What the answers look like is held against the real calls in
`test_console_pages`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import msgspec
from aiohttp import web

from pushsvc.api.console.calls import POLICY
from pushsvc.api.console.files import FOLDER, STATIC, Folder

State = Literal["empty", "full", "stale", "refused", "alarm"]
STATES: tuple[State, ...] = get_args(State)

PUSH = "019adf3c-7a10-7cc3-98c4-dc0c0c07398f"
REFUSED = {
    "type": "/docs/guide/reference/errors.md#unavailable",
    "title": "The service is not ready",
    "status": 503,
    "detail": "Redis cannot be reached, or its answer was lost. Try again.",
}


def ago(seconds: float) -> str:
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _counts(total: int, **parts: int) -> dict[str, int]:
    names = ("queued", "retrying", "sent", "failed", "invalid", "expired", "suppressed", "cancelled")
    counts = {name: parts.get(name, 0) for name in names}
    counts["sent"] = total - sum(count for name, count in counts.items() if name != "sent")
    return {"total": total, **counts}


def _cause(kind: str, severity: str, what: str, cause: str, remedy: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "severity": severity,
        "what": what,
        "cause": cause,
        "remedy": remedy,
        "since": ago(540),
        **more,
    }


def _causes(state: State) -> list[dict[str, Any]]:
    if state == "stale":
        remedy = "correct it; it is then read again automatically"
        return [_cause("reload", "warning", "configuration", REFUSAL, remedy)]
    if state != "alarm":
        return []
    why = "Apple refuses the signing key (`InvalidProviderToken`)"
    remedy = "check `key_id` and `team_id` of [apps.shop.apns], then reload"
    return [
        _cause("held", "critical", "shop/apns", why, remedy, app="shop", routes=["shop/apns"], waiting=41_208),
        _cause("webhook", "warning", "shop", "backend.example.com answers 502", "see why it does", app="shop"),
    ]


REFUSAL = "the change on disk was refused; the previous one is still in use (serve): apps.shop.nonsense: unknown key"


def stats(state: State) -> dict[str, Any]:
    empty, alarm = state == "empty", state == "alarm"
    busy = not empty
    text = {
        "alarm": "shop/apns for 9 min: Apple refuses the signing key (`InvalidProviderToken`). 41,208 deliveries wait; "
        "none is lost. Check `key_id` and `team_id` of [apps.shop.apns], then reload. 1 more cause.",
        "empty": "All is well: nothing waits.",
        "stale": f"configuration for 9 min: {REFUSAL}. Correct it; it is then read again automatically.",
    }.get(state, "All is well: 1,204 deliveries a second; 87 deliveries wait, none has been due for longer than 2 s.")

    def route(name: str, state: str, sent: float, p99: float) -> dict[str, Any]:
        held = state == "held"
        return {
            "route": f"shop/{name}",
            "platform": name.split("-")[0],
            "state": state,
            "since": ago(540) if held else None,
            "reason": "InvalidProviderToken" if held else "",
            "remedy": "",
            "frozen": "",
            "waiting": 41_208 if held else 0,
            "lanes": {"urgent": 0, "normal": 41_208 if held else 0, "bulk": 0},
            "retrying": 0,
            "unacknowledged": 0,
            "workers": 2,
            "sent_rate": sent if busy else None,
            "failed_rate": 0.0,
            "p50": p99 / 4 if busy else None,
            "p99": p99 if busy else None,
            "answers": {"sent": int(sent * 600), "dead": 12, "suspect": 1}
            if busy
            else {"sent": 0, "dead": 0, "suspect": 0},
            "failed": 4 if busy else 0,
            "expires_at": ago(-20 * 86400) if name == "fcm" else None,
        }

    return {
        "app": "shop",
        "at": ago(0),
        "verdict": {
            "state": {"alarm": "critical", "stale": "warning"}.get(state, "ok"),
            "text": text,
            "causes": _causes(state),
        },
        "lanes": [
            {"lane": "urgent", "waiting": 0, "oldest_age": None, "in_rate": 12.0, "out_rate": 12.0, "through_in": None},
            {
                "lane": "normal",
                "waiting": 41_208 if alarm else 12 if busy else 0,
                "oldest_age": 542.0 if alarm else 1.2 if busy else None,
                "in_rate": 800.0 if busy else 0.0,
                "out_rate": 480.0 if busy else 0.0,
                "through_in": None,
            },
            {
                "lane": "bulk",
                "waiting": 102 if busy else 0,
                "oldest_age": 1.0 if busy else None,
                "in_rate": 392.0 if busy else 0.0,
                "out_rate": 388.0 if busy else 0.0,
                "through_in": 0.3 if busy else None,
            },
        ],
        "routes": [
            route("apns", "held" if alarm else "sending", 480, 0.21),
            route("fcm", "sending", 388, 0.34),
            route("live", "sending", 12, 0.009),
        ],
        "workers": [
            {
                "part": part,
                "count": count,
                "processes": [{"name": f"host-a:{n}", "last_sign": ago(1)} for n in range(count)],
            }
            for part, count in (("serve", 1), ("dispatch", 2), ("feedback", 1), ("jobs", 1), ("live", 2))
        ],
        "queue": {
            "waiting": 41_310 if alarm else 114 if busy else 0,
            "limit": 5_000_000,
            "full": "",
            "counted": 42_510 if alarm else 1_314 if busy else 0,
        },
        "retrying": 31 if busy else 0,
        "unacknowledged": 240 if busy else 0,
        "scheduled": 1200 if busy else 0,
        "schedules": 8 if busy else 0,
        "scheduled_next_hour": 3 if busy else 0,
        "dead_letters": 3412 if busy else 0,
        "receipts": 2,
        "events": 812 if busy else 0,
        "quarantined": 0,
        "suppressed": 812 if busy else 0,
        "devices": 1_204_511 if busy else 0,
        "rates": dict.fromkeys(("accepted", "sent", "failed", "invalid"), None)
        if empty
        else {"accepted": 1204.2, "sent": 880.4, "failed": 0.21, "invalid": 0.4},
        "live": {
            "connections": 5120 if busy else 0,
            "gateways": [{"gateway": "gw-1", "connections": 5120, "last_sign": ago(1)}],
        },
        "webhooks": [],
        "cleanup": {
            "running": False,
            "began_at": None,
            "ended_at": ago(7200) if busy else None,
            "removed": {"tombstones": 31, "stale": 4},
        },
        "reload": {"ok": True, "at": ago(86400 * 3), "refused_since": None, "restart": []},
    }


def _push(number: int) -> dict[str, Any]:
    state = ("sending", "done", "done", "expanding", "done", "cancelled", "done")[number % 7]
    total = (3, 41_208, 1, 1200)[number % 4]
    waits = {"sending": {"queued": total // 2, "retrying": total // 3}, "expanding": {"queued": total}}.get(state, {})
    counts = _counts(total, **waits, failed=total // 10, cancelled=total // 2 if state == "cancelled" else 0)
    return {
        "id": PUSH if number == 0 else f"019adf3c-7a10-7cc3-98c4-{number:012x}",
        "state": state,
        "created_at": ago(60 * number + 40),
        "updated_at": ago(60 * number + 12),
        "lane": ("urgent", "normal", "bulk")[number % 3],
        "key": "backend",
        "counts": counts,
    }


def _letter(number: int) -> dict[str, Any]:
    return {
        "id": f"{number}-0",
        "push_id": PUSH,
        "platform": ("apns", "fcm")[number % 2],
        "device_id": f"phone-{number}" if number % 3 else None,
        "token_hash": f"{number:016x}",
        "reason": ("BadTopic", "QUOTA_EXCEEDED", "attempts_used_up")[number % 3],
        "status": (400, 429, 503)[number % 3],
        "attempts": 1 + number % 8,
        "at": ago(40 * number),
    }


def _device(number: int) -> dict[str, Any]:
    pruned = number % 5 == 1
    return {
        "id": f"phone-{number}",
        "platform": ("apns", "fcm")[number % 2],
        "kind": "token",
        "token_hash": f"{number:016x}",
        "token_end": "9f3c",
        "user": f"user-{number // 2}",
        "tags": {"plan": "pro", "beta": True},
        "locale": "de-AT",
        "timezone": "Europe/Vienna",
        "app_version": "3.2.0",
        "environment": "production",
        "registered_at": ago(86400 * 40),
        "last_seen_at": ago(3600 * number),
        "topics": ["news", "orders"],
        "state": "pruned" if pruned else "active",
        "pruned_at": ago(7200) if pruned else None,
        "pruned_for": "Unregistered" if pruned else "",
        "strikes": 0 if pruned else 2,
        "evidence": {
            "reason": "Unregistered" if pruned else "UNREGISTERED",
            "meaning": "The app was removed from the device.",
            "at": ago(7200),
            "push": PUSH,
        },
        "live": {"online": number % 2 == 0, "unacked": 2, "unread": 5, "connected_at": ago(700)},
    }


def _message() -> dict[str, Any]:
    payload = {"aps": {"alert": {"title": "Order 7 shipped"}}}
    return {
        "route": "apns",
        "platform": "apns",
        "method": "POST",
        "path": "/3/device/<token>",
        "headers": {"apns-topic": "com.example.shop", "apns-push-type": "alert", "apns-priority": "10"},
        "body": payload,
        "bytes": 3812,
        "limit": 4096,
        "deliveries": 2,
        "override": {"payload": payload},
    }


def _webhook() -> dict[str, Any]:
    return {
        "kind": "feedback",
        "host": "backend.example.com",
        "state": "failing",
        "reason": "answers 502",
        "failing_since": ago(900),
        "failures": 4,
        "attempts": 4,
        "waiting_since": ago(900),
        "lag": 900.0,
        "next_call_in": 12.0,
        "cursor": "1796115600000-0",
        "dead": 2,
        "asked": 0,
        "trouble": "backend.example.com answers 502 since 15 min: see why it does",
        "dead_batches": [
            {
                "id": "b-1",
                "events": 100,
                "attempts": 12,
                "reason": "answers 500",
                "at": ago(86400),
                "after": "1-0",
                "last": "9-0",
            }
        ],
        "calls": [
            {
                "at": ago(60 * n),
                "id": f"b-{n}",
                "events": 12,
                "attempt": n + 1,
                "status": 502 if n < 4 else 200,
                "reason": "Bad Gateway" if n < 4 else "",
                "seconds": 0.041,
                "result": "failed" if n < 4 else "delivered",
            }
            for n in range(8)
        ],
    }


def _rates(step: int, points: int, empty: bool, lone: bool) -> dict[str, Any]:
    def values(base: int) -> list[int | None]:
        if lone:
            return [base if n == points // 2 else None for n in range(points)]
        return [
            None if 20 <= n < 24 else 0 if empty else step * (base + (n * 37) % max(1, base // 3))
            for n in range(points)
        ]

    return {
        "from": ago(step * points),
        "step": step,
        "points": points,
        "series": [
            {"name": name, "platform": platform, "lane": "", "values": values(base)}
            for name, platform, base in (
                ("accepted", "", 1100),
                ("sent", "apns", 500),
                ("sent", "fcm", 380),
                ("failed", "apns", 40),
            )
        ],
    }


def answer(state: State, method: str, path: str, query: dict[str, str]) -> Any:
    """What a call answers."""
    empty = state == "empty"

    def page(items: list[Any], **more: Any) -> dict[str, Any]:
        return {"items": [] if empty else items, "cursor": None if empty else "next", **more}

    match method, path.removeprefix("/v1/").split("/"):
        case "GET", ["admin", "stats"]:
            return stats(state)
        case "GET", ["admin", "rates"]:
            span, step = int(query["span"]), int(query["step"])
            return _rates(step, span // step, empty, lone=state == "alarm")
        case "GET", ["admin", "pushes"]:
            return page([_push(n) for n in range(20)])
        case "GET", ["admin", "pushes", _]:
            to = {"where": "tags.plan == 'pro'"}
            when = {"accepted": 40, "first_end": 38, "first_failure": 37, "replayed": 20, "last_end": 9}
            moments = [{"what": what, "at": ago(seconds)} for what, seconds in when.items()]
            copy = {"to": to, "notification": {"title": "Order 7 shipped"}, "lane": "urgent", "dry_run": True}
            message = {**_message(), "deliveries": None}
            left = (None, [], None, []) if empty else (to, [message], copy, ["ttl", "dry_run"])
            names = ("to", "messages", "copy", "copy_lacks")
            return {**_push(0), "timeline": moments, **dict(zip(names, left, strict=True))}
        case "GET", ["admin", "schedules"]:
            return page([{**_push(n), "state": "scheduled", "send_at": ago(-600 * (n + 1))} for n in range(4)])
        case "GET" | "DELETE", ["push", _]:
            live = {"acked": 3, "fallback": 40, "waiting": 0}
            push = {name: value for name, value in _push(0).items() if name not in ("lane", "key")}
            return {
                **push,
                "app": "shop",
                "counts": _counts(41_208, queued=120, retrying=31, failed=9, invalid=12),
                "live": live,
                "trace_id": "0af7651916cd43dd8448eb211c80319c",
            }
        case "GET", ["push", _, "deliveries"]:
            return page(
                [
                    {
                        "platform": "apns",
                        "device_id": f"phone-{n}",
                        "token_hash": f"{n:016x}",
                        "outcome": ("sent", "failed", "invalid", "sent")[n % 4],
                        "reason": ("", "BadTopic", "Unregistered", "")[n % 4],
                        "status": (200, 400, 410, 200)[n % 4],
                        "attempts": 1 + n % 2,
                        "provider_id": f"5F3C2A1B-0000-4000-8000-{n:012X}",
                        "at": ago(38 - n),
                        "channel": "provider",
                    }
                    for n in range(24)
                ]
            )
        case "GET", ["admin", "failed"]:
            groups = [
                {
                    "platform": "apns",
                    "reason": "BadTopic",
                    "count": 3100,
                    "first_at": ago(9000),
                    "last_at": ago(12),
                    "status": 400,
                    "meaning": "Apple does not know the topic.",
                    "remedy": "Correct `topic` of the account; then replay.",
                    "retryable": False,
                    "sample": [_letter(0)],
                },
                {
                    "platform": "fcm",
                    "reason": "QUOTA_EXCEEDED",
                    "count": 312,
                    "first_at": ago(9000),
                    "last_at": ago(600),
                    "status": 429,
                    "meaning": "The project, or one device, was sent more messages than Google accepts.",
                    "remedy": "Lower the rate, or ask Google for more; then replay.",
                    "retryable": True,
                    "sample": [_letter(1)],
                },
            ]
            return {"groups": [] if empty else groups, "total": 0 if empty else 3412, "complete": True}
        case "GET", ["failed"]:
            return page([_letter(n) for n in range(12)])
        case "POST", ["failed", "replay"]:
            return {"job": "abc", "matched": 3412}
        case "GET", ["failed", "replay", _]:
            counts = {"matched": 3412, "moved": 3400, "skipped": 12}
            asked = {"filter": {"reason": "ServiceUnavailable"}, "limit": 0, "rate": 100.0}
            times = {"created_at": ago(9), "updated_at": ago(1)}
            return {"job": "abc", "state": "done", "error": "", **times, **counts, **asked}
        case "GET", ["admin", "feedback"]:
            routes = [
                {
                    "route": f"shop/{name}",
                    "frozen": name == "apns" and not empty,
                    "why": "62 % of the last answers call tokens dead",
                    "answers": {"sent": 400, "dead": 650, "suspect": 3},
                    "share": {"dead": 0.617, "suspect": 0.003},
                    "limit": {"dead": 0.5, "suspect": 0.2},
                    "least": {"dead": 200, "suspect": 100},
                    "window": 600.0,
                    "prune_anyway_until": None,
                    "waits_for": "fewer than 50 % dead answers in 10 min",
                }
                for name in ("apns", "fcm")
            ]
            days = [
                {"day": "2026-11-28", "platform": "apns", "reason": "Unregistered", "action": action, "count": 120}
                for action in ("pruned", "kept", "suspected")
            ]
            return {"routes": routes, "days": [] if empty else days, "complete": True, "receipts": 0 if empty else 4}
        case "GET", ["admin", "devices", _, "pushes"]:
            ends = [
                {
                    "platform": "apns",
                    "device_id": "phone-1",
                    "token_hash": f"{n:016x}",
                    "outcome": ("sent", "invalid", "sent")[n % 3],
                    "reason": ("", "Unregistered", "")[n % 3],
                    "status": (200, 410, 200)[n % 3],
                    "attempts": 1,
                    "provider_id": "",
                    "at": ago(38 + 60 * n),
                    "channel": "provider",
                }
                for n in range(7)
            ]
            items = [{"push_id": PUSH, "created_at": ago(40 + 60 * n), "delivery": end} for n, end in enumerate(ends)]
            none = {"examined": 0, "too_large": 0, "since": None}
            return page(items, **(none if empty else {"examined": 5000, "too_large": 3, "since": ago(7200)}))
        case "GET", ["admin", "devices"]:
            return page([_device(n) for n in range(14)], scanned=14)
        case "GET", ["admin", "devices", "count"]:
            return {"devices": 0 if empty else 1_204, "complete": True}
        case "GET", ["admin", "devices", name]:
            number = 1 if name.endswith("1") else 2
            return {**_device(number), "id": name, "suppressed": number == 2}
        case "GET", ["admin", "live"]:
            gateways = [{"gateway": f"gw-{n}", "connections": 2560, "last_sign": ago(n)} for n in range(2)]
            return {"connections": 0 if empty else 5120, "gateways": [] if empty else gateways}
        case "GET", ["admin", "webhooks"]:
            return {"webhooks": [] if empty else [_webhook()]}
        case "POST", ["admin", "webhooks", "test"]:
            return {"ok": True, "host": "backend.example.com", "status": 200, "reason": "", "seconds": 0.04}
        case "GET", ["admin", "keys"]:
            keys = [("backend", ["push", "devices"]), ("operator", ["admin", "push"]), ("ci", ["push"])]
            return {
                "keys": [
                    {
                        "app": "shop",
                        "name": name,
                        "scopes": scopes,
                        "intake": None,
                        "created_at": ago(86400 * 30),
                        "kept_in": "configuration" if name == "backend" else "store",
                        "last_used_at": None if name == "ci" else ago(2000),
                    }
                    for name, scopes in (keys[1:2] if empty else keys)
                ]
            }
        case "POST", ["admin", "keys"]:
            more = {"intake": None, "created_at": ago(0), "kept_in": "store", "app": "shop", "sha256": "ab" * 32}
            return {"key": "pushsvc_" + "x" * 43, "name": "new", "scopes": ["push"], **more}
        case "GET", ["admin", "check"]:
            finding = {
                "part": "apps.shop.apns",
                "level": "ok",
                "what": "The key is readable.",
                "fix": "",
                "expires": None,
            }
            warning = {**finding, "part": "redis", "level": "warning", "what": "Redis keeps no append-only file."}
            return {"ok": True, "findings": [finding, *([warning] if state == "alarm" else [])]}
        case "POST", ["admin", "preview"]:
            return {
                "state": "sending",
                "deliveries": 2,
                "warnings": [{"path": "notification.image", "message": "APNs shows no image without an extension"}],
                "audience": None,
                "unreached": 1,
                "messages": [_message()],
            }
        case "POST", ["push"]:
            return {"id": PUSH, "state": "sending", "deliveries": 2}
    return {}


@dataclass
class Rig:
    """A server of the console. `state` decides what its calls answer; `calls` are those that change something."""

    url: str = ""
    state: State = "full"
    scopes: tuple[str, ...] = ("push", "devices", "feedback", "admin")
    signed_in: bool = True
    calls: list[tuple[str, str, str, Any]] = field(default_factory=list)
    """Method, path, the confirmed number, and the body."""
    folder: Folder = field(default_factory=lambda: Folder(FOLDER))

    async def page(self, _: web.Request) -> web.Response:
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
        return web.Response(body=self.folder.read().shell, headers=headers)

    async def file(self, request: web.Request) -> web.Response:
        found = self.folder.last.by_path[request.match_info["file"]]
        return web.Response(body=found.body, headers={"Content-Type": found.media})

    async def session(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            self.signed_in = request.headers.get("Authorization") == "Bearer right"
        if request.method == "DELETE":
            self.signed_in = False
            return web.Response(status=204)
        if not self.signed_in:
            problem = {"title": "No valid API key", "detail": "The API key is not known.", "status": 401}
            return web.json_response(problem, status=401)
        names = {"app": "shop", "key": "operator", "version": "0.1.0", "state": "open", "at": ago(0)}
        return web.json_response({**names, "scopes": self.scopes, "live": True, "platforms": ["apns", "fcm"]})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                name, body = ("problem", REFUSED) if self.state == "refused" else ("stats", stats(self.state))
                await response.write(f"event: {name}\ndata: {msgspec.json.encode(body).decode()}\n\n".encode())
                if self.state == "stale":
                    break
                await asyncio.sleep(1)
        return response

    async def call(self, request: web.Request) -> web.Response:
        if request.method != "GET":
            body = await request.read()
            number = request.headers.get("X-Pushsvc-Act", "")
            self.calls.append((request.method, request.path, number, msgspec.json.decode(body) if body else None))
        if self.state == "refused":
            return web.json_response(REFUSED, status=503, headers={"Retry-After": "1", "X-Request-Id": "r-1"})
        found = answer(self.state, request.method, request.path, dict(request.query))
        return web.Response(body=msgspec.json.encode(found), content_type="application/json")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        app = web.Application()
        app.router.add_get(STATIC + "/{version}/{file:.+}", self.file)
        app.router.add_route("*", "/console/session", self.session)
        app.router.add_get("/console/stream", self.stream)
        app.router.add_get("/console{rest:.*}", self.page)
        app.router.add_route("*", "/v1/{rest:.*}", self.call)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            host, port = runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
            yield self
        finally:
            await runner.cleanup()
