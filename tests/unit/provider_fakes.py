"""A pool without a network, contents without an intake, and the golden tables: for the providers' unit tests."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import pytest
from hpack import Decoder
from msgspec import Raw

from pushsvc.model.delivery import Delivery, Outcome
from pushsvc.model.push import Chunk, Content, Message, Notification, Target
from pushsvc.net.http2.exchange import Answer, OnAnswer, Response
from pushsvc.net.http2.hpack_fields import field
from pushsvc.ports.provider import RenderError

GOLDEN = Path(__file__).parent / "golden"
PUSH_ID = "01936f6e-8f5c-7abc-9def-0123456789ab"
CREATED_AT = 1_700_000_000_123


def golden(name: str, key: str = "row") -> list[dict[str, Any]]:
    """The rows of a golden table."""
    rows: list[dict[str, Any]] = tomllib.loads((GOLDEN / name).read_text())[key]
    return rows


FULL: Final = {
    "title": "Order 7 shipped",
    "subtitle": "Two parcels",
    "body": "Arrives Friday",
    "image": "https://example.com/7.png",
    "sound": "default",
    "badge": 3,
    "link": "https://example.com/orders/7",
    "category": "ORDER",
    "thread": "orders",
    "channel": "orders",
}
"""A notification with every field."""


def faults_of(render: Callable[[], Message]) -> dict[str, str]:
    """The faults of a content that is refused, by place; not for its size."""
    with pytest.raises(RenderError) as caught:
        render()
    assert not caught.value.too_large
    return {fault.path: fault.message for fault in caught.value.faults}


def rendered_or_refused(render: Callable[[], Message]) -> Message | None:
    """The message, or None after a look at the reasons why there is none."""
    try:
        return render()
    except RenderError as error:
        refused = error
    assert refused.faults
    assert all(fault.path and fault.message for fault in refused.faults)
    return None


def content(
    *, overrides: dict[str, str | bytes | dict[str, Any]] | None = None, notification: Any = None, **fields: Any
) -> Content:
    """A content; overrides as JSON text or as a dict, the notification as a dict."""
    raw = {
        platform: Raw(value if isinstance(value, str | bytes) else msgspec.json.encode(value))
        for platform, value in (overrides or {}).items()
    }
    shown = None if notification is None else msgspec.convert(notification, Notification)
    return Content(notification=shown, overrides=raw, **fields)


def chunk(message: Message, *tokens: str, kind: str = "token", dry_run: bool = False, push_id: str = PUSH_ID) -> Chunk:
    """A chunk of these tokens, numbered from 0."""
    return Chunk(
        push_id=push_id,
        app="shop",
        channel=message.platform,
        lane="normal",
        total=len(tokens),
        starts_at=CREATED_AT,
        expires_at=CREATED_AT + 3_600_000,
        message=message,
        targets=tuple(Target(index, token, None, kind) for index, token in enumerate(tokens)),
        dry_run=dry_run,
    )


class Cancelled(Delivery, frozen=True):
    """A delivery of a push that was cancelled after it was submitted."""

    @property
    def cancelled(self) -> bool:
        return True


def response(status: int, body: bytes | dict[str, Any] = b"", headers: dict[str, str] | None = None) -> Response:
    """An answer as the transport gives it."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(status, data, {name.lower(): value for name, value in (headers or {}).items()})


class Submitted(msgspec.Struct):
    """One request that the pool was given."""

    fields: bytes
    body: bytes
    context: Any
    on_answer: OnAnswer

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The header fields, decoded by a decoder that is not ours."""
        return [(str(name), str(value)) for name, value in Decoder().decode(self.fields)]

    @property
    def headers(self) -> dict[str, str]:
        pairs = self.pairs
        assert len(dict(pairs)) == len(pairs), "a field is there twice"
        return dict(pairs)

    def answer(self, answer: Answer) -> None:
        self.on_answer(self.context, answer)


class FakePool:
    """Takes requests and keeps them; the test answers."""

    def __init__(self, origin: str = "", **options: Any) -> None:
        self.origin = origin
        self.options = options
        self.requests: list[Submitted] = []
        self.room = 1000
        self.trouble = ""
        self.silence = 0.0
        self.renewals = 0
        self.closed = 0
        self.on_close: Callable[[], None] = lambda: None
        self.wakes: list[Callable[[], None]] = []

    async def __aenter__(self) -> FakePool:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def on_room(self, wake: Callable[[], None]) -> None:
        self.wakes.append(wake)

    def submit(self, fields: bytes, body: bytes, context: Any, on_answer: OnAnswer) -> None:
        self.requests.append(Submitted(fields, body, context, on_answer))

    def renew(self) -> None:
        self.renewals += 1

    async def aclose(self) -> None:
        self.closed += 1
        if self.closed == 1:
            self.on_close()


class Outcomes(list[tuple[Delivery, Outcome]]):
    """Collects the outcomes of `on_outcome`."""

    def __call__(self, delivery: Delivery, outcome: Outcome) -> None:
        self.append((delivery, outcome))

    @property
    def last(self) -> Outcome:
        return self[-1][1]


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def never_indexed(fields: bytes, name: str, value: str) -> bool:
    """Whether the field stands in the block as a literal that no table remembers."""
    literal = field(name, value)
    return literal in fields and not literal[0] & 0b1100_0000
