"""Whether a device that connects goes on where it stopped. Pure."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from ...ports.live import Connected


class Recovery(NamedTuple):
    """The position in the reply to a connect."""

    offset: int
    recovered: bool
    missing: int
    """How many publications behind the client's position are missing."""


def recovery_of(result: Connected, asked: int | None, rendered: Container[str]) -> Recovery:
    """Return the position for a client that wants to go on behind the offset `asked`; None: it names no valid one.
    `rendered` has the pushes whose contents are there.

    The position is recovered if nothing behind it is missing, and no content: then the reply names the position that
    was asked for, and has the publications: first those before it that are not acknowledged, then those that catch it
    up. What is missing before it was announced at an earlier connect, and shows in `prev`. Otherwise the reply names
    the top of the stream, and what is not acknowledged follows the reply.
    """
    page = result.page
    lost = sum(each.push.id not in rendered for each in page.publications)
    missing = 0 if result.recovered else result.missing_ahead or page.missing
    if asked is None or lost or not result.recovered:
        return Recovery(page.top, False, missing + lost)
    return Recovery(asked, True, missing)
