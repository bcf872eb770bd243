"""Apple Push Notification service.

How the work is shared: aioapns gives the vocabulary (push types, priorities) and signs the provider token; the bytes
travel over our own HTTP/2 pool (`..transport`). Why not aioapns's client, measured against one HTTP/2 sink, one core
for the client: it reaches about 3,900 pushes/s; after about 2,500 error answers on a connection it stops for good,
because it never returns flow-control credit; at a GOAWAY it sends everything again that was in flight (200 pushes
became 483 requests); a request has no timeout; and cancelling one call ends its neighbours. Each of these loses or
repeats pushes in the trouble that this service exists for.

`config` the account · `vocabulary` the words · `render` and `classify` pure · `credentials` who we are ·
`check` what can be said without a network · `send` the deliveries · `targets` which token goes with which push ·
`channels` broadcast channels, managed
"""

from __future__ import annotations

from .channels import open_channels
from .check import check
from .classify import classify
from .config import DEFAULTS, MORE, Config, environment
from .render import RENDERER
from .send import open_provider
from .vocabulary import PLATFORM

__all__ = [
    "PLATFORM",
    "Config",
    "MORE",
    "DEFAULTS",
    "RENDERER",
    "classify",
    "open_provider",
    "check",
    "open_channels",
    "environment",
]
