"""Firebase Cloud Messaging, HTTP v1.

How the work is shared: firebase-admin reads the service account and is the measure of what a message looks like
(`render` is tested against its encoder), google-auth gets the access tokens; the bytes travel over our own HTTP/2 pool
(`..transport`). Why not firebase-admin's `send_each_async`, measured against one HTTP/2 sink, one core for the client:
it reaches about 1,050 messages/s, its threaded form 1,600/s; it hangs for good after 100 retried 5xx answers on a
connection; it gets its tokens by a blocking call on the event loop; and it does not look at Retry-After.

`config` the account · `render`, `limits` and `classify` pure · `quota` what Google allows · `credentials` who we are
· `check` what can be said without a network · `send` the messages
"""

from __future__ import annotations

from .check import check
from .classify import classify
from .config import DEFAULTS, Config
from .quota import account_limits
from .render import PLATFORM, RENDERER
from .send import open_provider

__all__ = ["PLATFORM", "Config", "DEFAULTS", "RENDERER", "classify", "open_provider", "check", "account_limits"]
