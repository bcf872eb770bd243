"""What of its stream a connection was given, and what of that is to be acknowledged. Without I/O.

What waits for room in the window stays in the device's stream. A connection begins behind what is acknowledged,
wherever the position of the client is: the client may have a position before it has the publications, as after a reply
that names the top of the stream and a cut behind it.

All but the flight are offsets: `begin` sets all of them, and the others move them as follows.

| cursor     | up to there, everything                        | moved by                                           |
|------------|------------------------------------------------|----------------------------------------------------|
| `acked`    | is acknowledged                                | `acknowledge`                                      |
| `_through` | was handed out, or has expired                 | `take`, `hand_out`                                 |
| `top`      | is known to be in the stream; at least `acked` | `take`, `hand_out`; back to its page by `answered` |
| `_paging`  | is asked for by a `MoreRequested`; 0: nothing is   | `more`; 0 again by `answered`                      |
| `_floor`   | that is missing was announced by a connect     | `begin`                                            |
| `_last`    | was given; the next publication's `prev`       | `_give`                                            |
| `_unsure`  | may have been given unknown to this; 0: nothing | `begin`, `unsure`; 0 again by `acknowledge`        |
| `_flight`  | (not up to: each that is to be acknowledged)   | in by `_give`; out by an acknowledgement           |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from ...ports.live import Page, Reference
from ..config import LiveAppConfig
from .codec import Rendered
from .commands import PAGE
from .effects import AckRequested, MoreRequested, ResendRequested

MESSAGE: Final = 512 * 1024
"""Bytes of contents of one message, unless the first alone has more: some clients end a connection at a message of
1 MB."""
NEVER: Final = math.inf


class HandedOut(NamedTuple):
    """A publication that is handed out."""

    rendered: Rendered
    offset: int
    prev: int


class StreamWindow:
    """The state of one connection. Instants are the gateway's seconds, which only grow."""

    __slots__ = (
        "_flight",
        "_floor",
        "_last",
        "_paging",
        "_resend_after",
        "_through",
        "_unsure",
        "acked",
        "app",
        "paused",
        "resend_at",
        "top",
    )

    def __init__(self, app: LiveAppConfig) -> None:
        self._use(app)
        self.acked = 0
        self.top = 0
        self.resend_at = NEVER
        """When the next publication is to be sent again."""
        self.paused = False
        """Whether nothing is handed out, because the client does not read what was written."""
        self._through = 0
        self._paging = 0
        self._last = 0
        self._floor = 0
        self._unsure = 0
        self._flight: dict[int, tuple[float, int, Reference | None]] = {}
        """Offsets that are to be acknowledged, with the instant of the next resend, the number of resends left, and the
        delivery, if that is known."""

    def __len__(self) -> int:
        return len(self._flight)

    def begin(self, app: LiveAppConfig, *, since: int, acked: int, top: int, floor: int = 0, shown: int = 0) -> None:
        """Begin behind an offset of a stream. Up to `shown` other connections may have given the device all."""
        self._use(app)
        self._through = self._last = since
        self.acked, self.top, self._floor = acked, top, floor
        self._unsure = shown if shown > acked else 0

    def _use(self, app: LiveAppConfig) -> None:
        self.app = app
        self._resend_after = app.ack_within / (app.resend + 1) if app.resend else NEVER
        """Seconds until a publication is sent again: all resends are spread evenly over the time for its ack."""

    def clear(self) -> None:
        """Stop waiting for acknowledgements."""
        self._flight.clear()

    @property
    def room(self) -> int:
        """How many publications may be handed out."""
        return 0 if self.paused else self.app.window - len(self._flight)

    def unsure(self) -> None:
        """Note that an acknowledgement has failed: what it covered is no longer known."""
        self._unsure = max(self._unsure, self.acked)

    def acknowledge(self, asked: AckRequested) -> AckRequested:
        """Take an acknowledgement of everything up to an offset, which makes room at once. Return it with the
        deliveries that were given, or with their offsets alone where some are not known; as it is if its offset is not
        new or beyond the stream, or was not given, or if something before it may have been given unknown to this."""
        offset = asked.offset
        if not self.acked < offset <= self.top:
            return asked
        self.acked = offset
        flight, unsure = self._flight, self._unsure
        if unsure:
            if offset >= unsure:
                self._unsure = 0
        elif len(flight) == 1 and (own := flight.get(offset)) is not None and own[2] is not None:  # as nearly always
            flight.clear()
            self.resend_at = NEVER
            return AckRequested(asked.id, offset, asked.epoch, (own[2],))
        unknown = unsure or offset not in flight
        shown = [each for each in flight if each <= offset]
        given = [flight.pop(each)[2] for each in shown]
        if not flight:
            self.resend_at = NEVER
        if unknown:
            return asked
        if None in given:
            return AckRequested(asked.id, offset, asked.epoch, None, tuple(shown))
        return AckRequested(asked.id, offset, asked.epoch, cast("tuple[Reference, ...]", tuple(given)))

    def take(self, offset: int, prev: int, now: float, delivery: Reference | None = None) -> int | None:
        """Return the `prev` with which a publication that was appended just now is handed out; None: it was
        handed out before, or it waits in the stream."""
        if offset <= self._through:
            return None
        if offset > self.top:
            self.top = offset
        if prev > self._through or self._paging or self.room <= 0:
            return None
        self._through = offset
        return self._give(offset, now, delivery)

    def more(self) -> MoreRequested | None:
        """Return what to ask for of what waits in the stream, if something does and there is room."""
        if self._paging or self.top <= self._through or (room := self.room) <= 0:
            return None
        self._paging = self.top
        return MoreRequested(self._through, min(room, PAGE))

    def answered(self, page: Page | None, rendered: Mapping[str, Rendered], now: float) -> list[HandedOut] | None:
        """Return what is handed out of the page that `more` has asked for; None: it has a hole."""
        asked, self._paging = self._paging, 0
        if not asked:
            return []
        has_hole = page is not None and page.missing and page.floor > self._floor
        if page is None or has_hole or any(each.push.id not in rendered for each in page.publications):
            return None
        if self.top <= asked:
            self.top = page.top  # What was announced beyond it is not in the stream, and is not asked for again.
        return self.hand_out(page, rendered, now)

    def hand_out(
        self, page: Page, rendered: Mapping[str, Rendered], now: float, *, shows_holes: bool = False
    ) -> list[HandedOut]:
        """Return the publications of a page for which there is room. With `shows_holes` their `prev` names what is
        missing before them; otherwise the client learns of that in another way."""
        given: list[HandedOut] = []
        room = self.room
        self.top = max(self.top, page.top)
        for each in page.publications:
            if each.offset <= self._through:
                continue
            if len(given) >= room:
                return given
            content = rendered.get(each.push.id)
            if content is not None:
                prev = self._give(each.offset, now)
                given.append(HandedOut(content, each.offset, max(prev, each.prev) if shows_holes else prev))
            self._through = each.offset
        if not (page.more and page.publications):
            self._through = max(self._through, page.top)
        return given

    def _give(self, offset: int, now: float, delivery: Reference | None = None) -> int:
        """Return the `prev` of a publication, which is to be acknowledged from now on, unless it is already."""
        prev, self._last = self._last, offset
        if offset > self.acked:  # A device may acknowledge the top of its stream before it has been given all of it.
            due = now + self._resend_after
            self._flight[offset] = due, self.app.resend, delivery
            if due < self.resend_at:
                self.resend_at = due
        return prev

    def overdue(self, now: float) -> ResendRequested | None:
        """Return what to ask for of what is to be sent again now."""
        if now < self.resend_at:
            return None
        self.resend_at = now + self._resend_after
        overdue = [offset - 1 for offset, (due, *_) in self._flight.items() if due <= now]
        if not overdue or self.paused:
            return None
        return ResendRequested(min(overdue), max(self.app.window, len(self._flight)))

    def resend(self, page: Page, rendered: Mapping[str, Rendered], now: float) -> list[HandedOut]:
        """Return again what is still not acknowledged: all of it, though only the first was due. The client's position
        is the offset of the last publication that it was given, so that one comes last again."""
        again: list[HandedOut] = []
        owed, size = False, 0
        for each in page.publications:
            _, left, delivery = self._flight.get(each.offset, (NEVER, 0, None))
            content = rendered.get(each.push.id)
            if not left or content is None:
                continue
            if again and size + len(content) > MESSAGE:
                owed = True  # The next time: those that come before it have fewer resends left then.
                continue
            size += len(content)
            left -= 1
            self._flight[each.offset] = now + self._resend_after if left else NEVER, left, delivery
            again.append(HandedOut(content, each.offset, each.prev))
        self.resend_at = min((due for due, *_ in self._flight.values() if due > now), default=NEVER)
        if owed:
            self.resend_at = min(self.resend_at, now + self._resend_after)
        return again
