"""A device, a session and a tiny stream in random order: what the device believes to have is what it has got.

The device is as simple as the SDKs are: its position is the offset of the last publication that it was given, whatever
that was, and it goes on from there. The gateway answers late and in any order, news of a publication come late, twice
and out of order, and connections break with messages on their way.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pushsvc.live.config import LiveAppConfig
from pushsvc.live.protocol.codec import JSON, Rendered, render
from pushsvc.live.protocol.effects import (
    AckRequested,
    Bytes,
    Close,
    ConnectRequested,
    Effect,
    HistoryRequested,
    MoreRequested,
    ResendRequested,
)
from pushsvc.live.protocol.limits import Limits
from pushsvc.live.protocol.session import Session
from pushsvc.ports.live import Connected, LivePush, Page, Position, Publication, Recipient

APP = LiveAppConfig(window=3, ack_within=10.0, resend=1)
LIMITS = Limits(pong_within=8.0)
KEPT = 8
"""Publications that the stream keeps."""


def push_of(push_id: str) -> LivePush:
    return LivePush(push_id, 0, 2**40, "normal")


class Stream:
    """A stream as `ports/live` describes it."""

    def __init__(self) -> None:
        self.epochs = 0
        self.flush()

    def flush(self) -> None:
        self.epochs += 1
        self.epoch = f"e{self.epochs}"
        self.top = self.acked = 0
        self.standing: dict[int, str] = {}
        self.lost: set[int] = set()

    def append(self, push_id: str) -> Recipient:
        prev = max(self.standing, default=0)
        self.top += 1
        self.standing[self.top] = push_id
        while len(self.standing) > KEPT:
            first = min(self.standing)
            del self.standing[first]
            self.lost.add(first)
        return Recipient(1, self.epoch, self.top, prev, len(self.standing), 0)

    def page(self, since: int, limit: int) -> Page:
        after = sorted(offset for offset in self.standing if offset > since)
        publications = []
        prev = max((offset for offset in self.standing if offset <= since), default=0)
        for offset in after[:limit]:
            publications.append(Publication(offset, prev, 0, push_of(self.standing[offset])))
            prev = offset
        missing = sum(offset > since for offset in self.lost)
        return Page(self.epoch, self.top, publications, len(after) > limit, missing, max(self.lost, default=0))

    def connect(self, position: Position | None, limit: int) -> Connected:
        valid = position is not None and position.epoch == self.epoch and position.offset <= self.top
        since = min(position.offset, self.acked) if position is not None and valid else self.acked
        page = self.page(since, limit)
        return Connected(since, valid and not page.missing, page, self.acked, len(self.standing), None)


class Online(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream()
        self.now = 0.0
        self.made = 0
        self.sent: dict[tuple[str, int], str] = {}
        """By epoch and offset: what the device ought to get, unless it is notified that it does not."""
        self.session: Session | None = None
        self.asked: list[Effect] = []
        self.news: list[Recipient] = []
        self.wire: list[dict[str, Any]] = []
        self.command = 0
        # What the device knows.
        self.position: Position | None = None
        self.had: Position | None = None
        """The last publication that it was given."""
        self.base = 0
        self.got: set[str] = set()

    @property
    def rendered(self) -> dict[str, Rendered]:
        return {f"p{number}": render(f"p{number}", b'{"id":"p%d"}' % number) for number in range(self.made + 1)}

    def run_effects(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Bytes):
                self.wire += [json.loads(line) for line in effect.data.split(b"\n")]
            elif isinstance(effect, Close):
                assert effect.code in (3010, 3012), effect
                self.break_connection()
            elif isinstance(
                effect, ConnectRequested | AckRequested | MoreRequested | ResendRequested | HistoryRequested
            ):
                self.asked.append(effect)

    def break_connection(self) -> None:
        self.session = None
        self.asked.clear()
        self.wire.clear()

    def send(self, **request: Any) -> None:
        self.command += 1
        assert self.session is not None
        self.run_effects(self.session.received(json.dumps({"id": self.command} | request).encode(), self.now))

    # --- The stream ---

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.made += 1
            recipient = self.stream.append(f"p{self.made}")
            self.sent[recipient.epoch, recipient.offset] = f"p{self.made}"
            if self.session is not None:
                self.news.append(recipient)

    @rule(kind=st.sampled_from(["drop", "drop", "expire or replace", "expire or replace", "flush"]), data=st.data())
    def trouble(self, kind: str, data: st.DataObject) -> None:
        # One rule for all of it: otherwise it happens so often that hardly anything else does.
        if kind == "drop":
            self.break_connection()
        elif kind == "flush":
            self.stream.flush()
        elif self.stream.standing:
            offset = data.draw(st.sampled_from(sorted(self.stream.standing)))
            del self.stream.standing[offset]
            self.sent.pop((self.stream.epoch, offset), None)

    # --- The gateway ---

    @rule(data=st.data(), again=st.booleans())
    @precondition(lambda self: self.news and self.session)
    def hear(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.news) - 1))
        recipient = self.news[at] if again else self.news.pop(at)
        self.publish(recipient)

    def publish(self, recipient: Recipient) -> None:
        assert self.session is not None
        self.run_effects(self.session.published(recipient, self.rendered[f"p{self.number(recipient)}"], self.now))

    def number(self, recipient: Recipient) -> int:
        return int(self.sent.get((recipient.epoch, recipient.offset), "p0")[1:])

    @rule(data=st.data())
    @precondition(lambda self: self.asked and self.session)
    def answer(self, data: st.DataObject) -> None:
        self.answer_one(data.draw(st.integers(0, len(self.asked) - 1)))

    def answer_one(self, at: int) -> None:
        session, asked = self.session, self.asked.pop(at)
        assert session is not None
        match asked:
            case ConnectRequested():
                effects = session.connected(
                    asked.id,
                    self.stream.connect(asked.position, 4),
                    self.rendered,
                    APP,
                    heartbeat=25.0,
                    ttl=10**6,
                    now=self.now,
                )
            case AckRequested():
                right = asked.epoch == self.stream.epoch and asked.offset <= self.stream.top
                if right:
                    for offset, push_id in self.stream.standing.items():
                        covered = self.stream.acked < offset <= asked.offset
                        assert not covered or push_id in self.got, "acknowledged by a device that never had it"
                    self.stream.acked = max(self.stream.acked, asked.offset)
                effects = session.acked(asked.id, "" if right else "epoch")
            case MoreRequested():
                effects = session.more(self.stream.page(asked.since, asked.limit), self.rendered, self.now)
            case ResendRequested():
                effects = session.resend(self.stream.page(asked.since, asked.limit), self.rendered, self.now)
            case _:
                raise AssertionError(asked)
        self.run_effects(effects)

    @rule(seconds=st.sampled_from([0.5, 5.0, 25.0]))
    @precondition(lambda self: self.session)
    def wait(self, seconds: float) -> None:
        self.now += seconds
        while self.session is not None and self.session.due <= self.now:
            self.run_effects(self.session.tick(self.now))

    # --- The device ---

    @rule(fresh=st.booleans(), late=st.booleans())
    @precondition(lambda self: self.session is None)
    def connect(self, fresh: bool, late: bool) -> None:
        self.session = Session(JSON, "c", self.now, spread=0.5, limits=LIMITS)
        if fresh:
            self.position = None
        position = self.position
        subs = {}
        if position is not None:
            subs = {"device": {"recover": True, "epoch": position.epoch, "offset": position.offset}}
        self.send(connect={"token": "t", "subs": subs})
        if not late:
            self.answer_one(0)
            self.take(self.wire.pop(0))

    @rule(count=st.integers(1, 5))
    @precondition(lambda self: self.wire)
    def read(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            if self.wire:
                self.take(self.wire.pop(0))

    def take(self, reply: dict[str, Any]) -> None:
        assert "error" not in reply or reply["error"]["code"] == 112, reply
        if "connect" in reply:
            device = reply["connect"]["subs"]["device"]
            if device["recovered"]:
                assert self.position == Position(device["epoch"], device["offset"])
            else:
                assert "publications" not in device
                self.base = device["offset"]
            self.position = Position(device["epoch"], device["offset"])
            for publication in device.get("publications", ()):
                self.take_publication(publication)
        elif "push" in reply and "pub" in reply["push"]:
            self.take_publication(reply["push"]["pub"])
        elif not reply and self.session is not None:
            self.run_effects(self.session.received(b"{}", self.now))

    def take_publication(self, publication: dict[str, Any]) -> None:
        assert self.position is not None
        self.position = self.had = Position(self.position.epoch, publication["offset"])
        self.got.add(publication["data"]["id"])

    @rule()
    @precondition(lambda self: self.session and self.session.open and self.had)
    def ack(self) -> None:
        assert self.had is not None
        self.send(rpc={"method": "ack", "data": {"ack": {"offset": self.had.offset, "epoch": self.had.epoch}}})

    @rule()
    @precondition(lambda self: self.session)
    def settle(self) -> None:
        """Let everything happen that is on its way; the device acknowledges as it should."""
        for _ in range(100):
            while self.session is not None and (self.news or self.asked or self.wire):
                if self.asked:
                    self.answer_one(0)
                elif self.news:
                    self.publish(self.news.pop(0))
                else:
                    self.take(self.wire.pop(0))
            if self.session is None:
                return
            if not self.session.waiting:
                break
            self.ack()
        else:
            raise AssertionError("the device acknowledges, and still there is more")
        if self.position is not None and self.position.epoch == self.stream.epoch:
            missing = {
                push_id
                for (epoch, offset), push_id in self.sent.items()
                if epoch == self.stream.epoch and offset > self.base and push_id not in self.got
            }
            assert not missing, "not given to a device that was never notified"

    # --- What always holds ---

    @invariant()
    def no_hole_before_the_position(self) -> None:
        if self.position is None:
            return
        for (epoch, offset), push_id in self.sent.items():
            if epoch == self.position.epoch and self.base < offset <= self.position.offset:
                assert push_id in self.got

    @invariant()
    def the_window_holds(self) -> None:
        if self.session is not None:
            assert self.session.waiting <= APP.window


Online.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestOnline = Online.TestCase
