"""The client of the HTTP API, for programs that send pushes and keep devices.

    from pushsvc.client import AsyncClient, Client

    with Client("https://push.example.com", key="pushsvc_..") as push:
        accepted = push.send({"to": {"users": ["u1"]}, "notification": {"title": "Order 7 shipped"}})

`AsyncClient` has the same calls as coroutines. A call that the service could not take is made again, after the time
that the service asks for; an idempotency key makes sure that this sends nothing twice.
"""

from .asynchronous import AsyncClient as AsyncClient
from .documents import (
    Accepted as Accepted,
    BatchResult as BatchResult,
    Counts as Counts,
    Delivery as Delivery,
    Device as Device,
    DeviceDocument as DeviceDocument,
    Erased as Erased,
    Fault as Fault,
    FeedbackEvent as FeedbackEvent,
    NotificationDocument as NotificationDocument,
    Problem as Problem,
    PushDocument as PushDocument,
    Status as Status,
    ToDocument as ToDocument,
    TokenTarget as TokenTarget,
    Topic as Topic,
)
from .errors import ClientError as ClientError, Refused as Refused, Unreachable as Unreachable
from .retries import Retries as Retries
from .synchronous import Client as Client
