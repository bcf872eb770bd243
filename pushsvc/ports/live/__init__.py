"""The live channel: a stream for each device, its connection, the acknowledged position, and the gateways.

Every push to a device that may use the channel is referred to in the device's stream; the content is stored once a
push. A stream has an epoch and offsets from 1. Offsets grow, and may leave numbers out: a publication names the offset
before it as `prev`, and a reader who has everything up to an offset of at least `prev` has missed nothing. Instants are
in Unix ms.
"""

from __future__ import annotations

from typing import Protocol

from .events import *
from .gateways import *
from .streams import *


class Live(LiveStreams, LiveGateways, LiveEvents, Protocol):
    """Everything of the live channel in the store."""
