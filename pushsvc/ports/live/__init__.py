"""The live channel: a stream for each device, its connection, the acknowledged position, and the gateways.

Every push to a device that may use the channel is referred to in the device's stream; the content is stored once a
push. A stream has an epoch and offsets from 1. Offsets grow, and may leave numbers out: a publication names the offset
before it as `prev`, and a reader who has everything up to an offset of at least `prev` has missed nothing. Instants are
in Unix ms.
"""

from __future__ import annotations

from typing import Protocol

from .events import (
    EVENTS as EVENTS,
    Event as Event,
    EventCounts as EventCounts,
    EventReport as EventReport,
    LiveEvents as LiveEvents,
)
from .gateways import (
    Cut as Cut,
    Drain as Drain,
    Forwarded as Forwarded,
    Inbox as Inbox,
    InboxItem as InboxItem,
    LiveGateways as LiveGateways,
    Poke as Poke,
    Received as Received,
    Recipient as Recipient,
    Unread as Unread,
    pokes_of as pokes_of,
)
from .streams import (
    MAX_BATCH as MAX_BATCH,
    MAX_NAMED as MAX_NAMED,
    Acked as Acked,
    Append as Append,
    Appended as Appended,
    Connected as Connected,
    LiveContent as LiveContent,
    LivePush as LivePush,
    LiveRoute as LiveRoute,
    LiveStreams as LiveStreams,
    Page as Page,
    Position as Position,
    Presence as Presence,
    Publication as Publication,
    Read as Read,
    Receiver as Receiver,
    Reference as Reference,
    Refused as Refused,
)


class Live(LiveStreams, LiveGateways, LiveEvents, Protocol):
    """Everything of the live channel in the store."""
