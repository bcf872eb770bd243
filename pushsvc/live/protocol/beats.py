"""The pings of one connection. Without I/O; instants are the gateway's seconds, which only grow."""

from __future__ import annotations


class Beats:
    """When the next ping is due. The interval is one that was agreed: see heartbeat.py."""

    __slots__ = ("_announced", "_pinged_at", "due", "interval")

    def __init__(self, due: float) -> None:
        """Begin before the connect: `due` is when its client is stale."""
        self.due = due
        """When the next ping is due, or the answer to the last one."""
        self.interval = 0.0
        """The seconds between two pings."""
        self._announced = 0.0
        self._pinged_at = 0.0
        """When the ping was sent that is to be answered; 0: none is."""

    @property
    def unanswered(self) -> bool:
        """Whether a ping is to be answered."""
        return self._pinged_at > 0.0

    def begin(self, interval: float, first: float, *, announced: float) -> None:
        """Ping from the instant `first` on. The client was promised one every `announced` seconds at the
        latest."""
        self.interval, self._announced, self.due = interval, announced, first

    def change(self, interval: float, now: float) -> None:
        """Ping in another interval. One that is longer than what was announced at the connect waits for the next
        connect, because clients end a connection whose pings are late."""
        self.interval = min(interval, self._announced)
        if not self._pinged_at:
            self.due = now + self.interval

    def pinged(self, now: float, within: float) -> None:
        """Note a ping, which is to be answered within some seconds."""
        self._pinged_at = now
        self.due = now + min(within, self.interval)

    def ponged(self, now: float) -> None:
        """Note the answer to the last ping."""
        self.due, self._pinged_at = max(now, self._pinged_at + self.interval), 0.0
