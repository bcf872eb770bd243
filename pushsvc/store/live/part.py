"""What the parts of the live channel share that name devices in keys."""

from __future__ import annotations

from ..part import StoreContext, StorePart
from ..registry.wire import Digests


class LivePart(StorePart):
    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._digest = Digests(context.hash_key).of
