"""The live channel as a provider: pushes for devices that may be connected to a gateway.

It is a package beside the other providers, with the same fixed names, because it then leaves the dispatcher as it is: a
live route is opened, read, limited, drained and replaced like any other, and what follows from its answers is decided
where that is decided for all. It differs in three ways. Its account is the app's own (`[apps.NAME.live]`), so it is not
in the `REGISTRY` of sections. It writes to the store and not to a vendor. And it never reports anything as sent: a
device acknowledges, or the next channel carries the delivery on (`Unconfirmed`).

`render` and `batch` pure · `send` appends to streams and pokes gateways
"""

from __future__ import annotations

from typing import Final

from ...model.address import NO_ADDRESS, Kinds
from .render import PLATFORM, RENDERER
from .send import open_provider

__all__ = ["PLATFORM", "ADDRESSES", "RENDERER", "open_provider"]

ADDRESSES: Final[Kinds] = {"id": NO_ADDRESS}
"""Its devices are known by their ids."""
