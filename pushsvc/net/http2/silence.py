"""Whether the server of a pool says nothing at all. Pure: the pool looks now and then, and sends the PINGs.

A server that is slow answers a PING; one that hangs, or is cut off, does not. So once nothing has come for `DOUBT`
seconds while a request waits, each connection is asked by a PING, which fails no request and takes no room. The silence
ends with the first byte of any connection. It outlasts the requests that it began with: they time out, and their
retries would begin another one.

Source: RFC 9113 6.7, https://www.rfc-editor.org/rfc/rfc9113#section-6.7
"""

from __future__ import annotations

from typing import Final

DOUBT: Final = 2.0
"""Seconds without a byte, while a request waits, after which a PING asks."""


class Silence:
    """The silence of one server. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        """The time of the last sign, a byte or else the request that waits, of which there was no answer; None while
        the server speaks, or has nothing to answer."""
        self._doubted_at = 0.0

    def seconds(self, now: float) -> float:
        """Return how long the server has been silent: `DOUBT`, and what has passed since the PINGs; 0 while it is not.
        So a pause of this process, in which bytes arrived that it has yet to read, counts for no more than `DOUBT`."""
        return 0.0 if self._since is None else DOUBT + now - self._doubted_at

    def look(self, now: float, *, received: float, asked: float) -> bool:
        """Take a look, and return whether the server is silent, so that each connection should be asked.

        `received` is when the last byte came, minus infinity where there is no connection; `asked` is when the request
        that waits longest was sent, infinity where none waits.
        """
        if self._since is not None and received > self._since:
            self._since = None
        last = max(received, asked)
        if self._since is None and now - last >= DOUBT:
            self._since, self._doubted_at = last, now
        return self._since is not None
