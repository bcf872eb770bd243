"""Decides what the receiving side does with each message, without I/O: handled once, in order, then acknowledged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict


class State(TypedDict):
    """What is stored between two runs of an app."""

    epoch: str
    offset: int
    ids: list[str]


@dataclass(frozen=True)
class Position:
    """A position in the device's stream."""

    epoch: str
    offset: int


@dataclass(frozen=True)
class Message:
    """One message: its push id, its position, and its content (`notification`, `data`, `at`, ..)."""

    id: str
    offset: int
    epoch: str
    data: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Publication:
    """A message as it came."""

    offset: int
    data: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Handle:
    """Give this message to the app's handler, then call `handled`."""

    message: Message


@dataclass(frozen=True)
class Retry:
    """Call `retried` later: the handler has failed `attempt` times."""

    id: str
    attempt: int


@dataclass(frozen=True)
class Ack:
    """Acknowledge everything up to an offset, then call `acknowledged`."""

    offset: int
    epoch: str


@dataclass(frozen=True)
class History:
    """Ask for a page of history, then call `history`."""

    since: int
    epoch: str


@dataclass(frozen=True)
class Missing:
    """Notify the app that up to `count` messages are lost. None: how many is not known."""

    count: int | None


@dataclass(frozen=True)
class Show:
    """The app is to show the provider's copy."""

    id: str


@dataclass(frozen=True)
class Drop:
    """The app is to drop the provider's copy: the message was or is being shown."""

    id: str


Step: TypeAlias = Handle | Retry | Ack | History | Missing | Show | Drop


class Sequencer:
    """Decides, without I/O, which steps follow from an event.

    Each method returns steps, to be done in their order.
    """

    def __init__(self, state: State | None = None, *, memory: int = 500) -> None:
        """Begin with what an earlier `state` has given; `memory` ids are remembered."""
        self._memory = memory
        self._known: dict[str, None] = {}
        """Ids of messages that were handled, oldest first."""
        self._epoch = ""
        self._tail: int | None = None
        """Everything up to here was taken, or is gone. None: where the stream begins is not known."""
        self._done = 0
        """Everything up to here was handled."""
        self._acked = 0
        """Everything up to here is acknowledged, as far as it is known."""
        self._acking = False
        self._queue: list[Message] = []
        """Messages that were taken and are to be handled; the first is with the handler, or waits for a retry."""
        self._handling = False
        self._stopped = False
        """Whether nothing is at the first message of the queue, nor waits to try it again."""
        self._attempt = 0
        self._held: list[Publication] = []
        """Publications behind a hole that history is to fill."""
        self._filling = False
        self._fill_to = 0
        if state is not None:
            self._epoch = state["epoch"]
            self._tail = self._done = state["offset"]
            self._known = dict.fromkeys(state["ids"][-memory:])

    @property
    def state(self) -> State:
        """Return what has to be stored."""
        return State(epoch=self._epoch, offset=self._done, ids=list(self._known))

    @property
    def position(self) -> Position:
        """Return the position up to which the stream has been handled."""
        return Position(self._epoch, self._done)

    @property
    def settled(self) -> bool:
        """Return whether nothing waits to be handled, acknowledged or filled in."""
        return not (self._queue or self._acking or self._filling)

    def subscribed(
        self, epoch: str, offset: int, *, recovered: bool, acked: int | None = None, missing: int = 0
    ) -> list[Step]:
        """Take a new connection. `acked` and `missing` are those of the connect reply's data."""
        steps: list[Step] = []
        self._acking = self._filling = False
        self._held = []
        if epoch != self._epoch:
            if self._epoch:
                steps.append(Missing(None))
            elif missing:
                steps.append(Missing(missing))
            self._epoch = epoch
            self._tail = acked
            self._done = self._acked = acked or 0
        else:
            if missing:
                steps.append(Missing(missing))
            self._acked = acked or 0
            if acked is not None:
                self._tail = max(self._tail or 0, acked)
            if not self._queue:
                self._done = max(self._done, self._acked)
            if recovered and self._tail is not None and offset > self._tail:
                # The SDK asked from further on than what has come here.
                self._fill(steps, self._tail, offset)
        if self._stopped:
            self._next(steps)
        else:
            self._acknowledge(steps)
        return steps

    def publication(self, publication: Publication) -> list[Step]:
        """Take a publication of the connection, that came for the first time or again."""
        steps: list[Step] = []
        prev = publication.data.get("prev", 0)
        if self._tail is not None and publication.offset <= self._tail:
            if publication.offset <= self._done:
                self._acked = min(self._acked, publication.offset - 1)  # The acknowledgement has not arrived.
                self._acknowledge(steps)
        elif self._filling:
            self._held.append(publication)
        elif self._tail is not None and prev > self._tail:
            self._held.append(publication)
            self._fill(steps, self._tail, prev)
        else:
            self._take(steps, publication)
        return steps

    def history(self, publications: Sequence[Publication]) -> list[Step]:
        """Take the page of history that was asked for; an empty one means that there is nothing more."""
        steps: list[Step] = []
        if not self._filling:
            return steps
        tail = self._take_behind(steps, publications)
        if publications and tail < self._fill_to:
            self._fill(steps, tail, self._fill_to)
            return steps
        self._filling = False
        held, self._held = sorted(self._held, key=lambda each: each.offset), []
        self._take_behind(steps, held)
        return steps

    def received(self, push_id: str) -> list[Step]:
        """Take the copy that a provider brought: the first step decides whether the app is to show it."""
        head = self._queue[0].id if self._queue else None
        if push_id in self._known or (self._handling and head == push_id):
            return [Drop(push_id)]
        steps: list[Step] = [Show(push_id)]
        self._remember(push_id)
        if head == push_id:
            self._next(steps)
        return steps

    def handled(self, *, succeeded: bool) -> list[Step]:
        """Take the end of the handler of the message that was given out last."""
        steps: list[Step] = []
        self._handling = False
        if succeeded:
            self._remember(self._queue[0].id)
            self._next(steps)
        else:
            self._attempt += 1
            steps.append(Retry(self._queue[0].id, self._attempt))
        return steps

    def retried(self, push_id: str) -> list[Step]:
        """Take the time of a retry."""
        steps: list[Step] = []
        if not self._handling and self._queue and self._queue[0].id == push_id:
            self._next(steps)
        return steps

    def stopped(self) -> list[Step]:
        """Take the end of the handler and of the wait for a retry without a result, as when the app disconnects. The
        next connection begins with their message."""
        self._handling, self._stopped, self._attempt = False, True, 0
        return []

    def acknowledged(self, offset: int, *, succeeded: bool) -> list[Step]:
        """Take the answer to an acknowledgement; one that failed is sent again. One that is refused, because the
        stream does not reach so far, has succeeded: there is nothing to acknowledge."""
        steps: list[Step] = []
        self._acking = False
        if succeeded:
            self._acked = max(self._acked, offset)
        self._acknowledge(steps)
        return steps

    def _take(self, steps: list[Step], publication: Publication) -> None:
        self._tail = publication.offset
        data = publication.data
        self._queue.append(Message(data["id"], publication.offset, self._epoch, data))
        if len(self._queue) == 1:
            self._next(steps)

    def _take_behind(self, steps: list[Step], publications: Iterable[Publication]) -> int:
        """Take what is not taken yet, and count what is lost by the chain of `prev`. Return the new tail."""
        tail = self._tail or 0
        for each in publications:
            if each.offset > tail:
                lost = each.data.get("prev", 0) - tail
                if lost > 0:
                    steps.append(Missing(lost))
                self._take(steps, each)
                tail = each.offset
        return tail

    def _fill(self, steps: list[Step], since: int, to: int) -> None:
        self._filling = True
        self._fill_to = to
        steps.append(History(since, self._epoch))

    def _next(self, steps: list[Step]) -> None:
        """Give out the first message that is not known, and count those before it as handled."""
        self._stopped = False
        while self._queue and self._queue[0].id in self._known:
            message = self._queue.pop(0)
            if message.epoch == self._epoch:
                self._done = max(self._done, message.offset)
            self._attempt = 0
        self._acknowledge(steps)
        if self._queue:
            self._handling = True
            steps.append(Handle(self._queue[0]))

    def _acknowledge(self, steps: list[Step]) -> None:
        if not self._acking and self._done > self._acked:
            self._acking = True
            steps.append(Ack(self._done, self._epoch))

    def _remember(self, push_id: str) -> None:
        self._known[push_id] = None
        if len(self._known) > self._memory:
            del self._known[next(iter(self._known))]
