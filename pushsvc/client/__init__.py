"""The client of the HTTP API, for programs that send pushes and keep devices.

    from pushsvc.client import AsyncClient, Client

    with Client("https://push.example.com", key="pushsvc_..") as push:
        accepted = push.send({"to": {"users": ["u1"]}, "notification": {"title": "Order 7 shipped"}})

`AsyncClient` has the same calls as coroutines. A call that the service could not take is made again, after the time
that the service asks for; an idempotency key makes sure that this sends nothing twice.
"""

from __future__ import annotations

from .asynchronous import AsyncClient
from .documents import (
    Accepted,
    BatchResult,
    Counts,
    Delivery,
    Device,
    DeviceDocument,
    Erased,
    Fault,
    FeedbackEvent,
    NotificationDocument,
    Problem,
    PushDocument,
    Status,
    ToDocument,
    TokenTarget,
    Topic,
)
from .errors import ClientError, Refused, Unreachable
from .retries import Retries
from .synchronous import Client

__all__ = [
    "AsyncClient",
    "Client",
    "Retries",
    "PushDocument",
    "ToDocument",
    "TokenTarget",
    "NotificationDocument",
    "DeviceDocument",
    "Accepted",
    "BatchResult",
    "Status",
    "Counts",
    "Delivery",
    "Device",
    "Topic",
    "Erased",
    "FeedbackEvent",
    "Problem",
    "Fault",
    "ClientError",
    "Refused",
    "Unreachable",
]
