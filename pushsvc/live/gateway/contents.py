"""Rendered contents of pushes, read once a process for all of its devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from ...ports.live import LiveStreams, Page
from ..protocol.codec import Rendered, render
from ..protocol.window import MESSAGE

KEPT: Final = 32 * 1024 * 1024
"""Bytes of contents that a process keeps."""


def bounded(page: Page, rendered: Mapping[str, Rendered]) -> Page:
    """Return a page that fits in one message: what is beyond follows as `more`."""
    size = 0
    for count, each in enumerate(page.publications):
        size += len(rendered.get(each.push.id, b""))
        if count and size > MESSAGE:
            return replace(page, publications=page.publications[:count], more=True)
    return page


class RenderedContents:
    """A bounded cache. The oldest content is dropped first."""

    def __init__(self, streams: LiveStreams, inline: int, kept: int = KEPT) -> None:
        self._streams = streams
        self._inline = inline
        self._room = kept
        self._rendered: dict[tuple[str, str], Rendered] = {}

    def add(self, app: str, push_id: str, body: bytes) -> Rendered:
        """Return the content of a push as devices get it, and keep it."""
        found = self._rendered.get((app, push_id))
        if found is None:
            found = self._rendered[app, push_id] = render(push_id, body, self._inline)
            self._room -= len(found)
            while self._room < 0 and len(self._rendered) > 1:
                self._room += len(self._rendered.pop(next(iter(self._rendered))))
        return found

    async def of(self, app: str, push_ids: Iterable[str]) -> Mapping[str, Rendered]:
        """Return the contents of these pushes; those that are gone are left out. Raises `StoreUnavailable`."""
        wanted = set(push_ids)
        found = {each: kept for each in wanted if (kept := self._rendered.get((app, each))) is not None}
        missing = sorted(wanted - found.keys())
        if missing:
            bodies = await self._streams.contents(app, missing)
            found |= {each: self.add(app, each, body) for each, body in bodies.items()}
        return found
