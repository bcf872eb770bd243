"""Firebase Cloud Messaging, HTTP v1.

firebase-admin reads the service account and is the reference for messages (`render` is tested against its encoder),
google-auth gets the access tokens; requests use our own HTTP/2 pool (`pushsvc.net.http2`). Reasons against
firebase-admin's `send_each_async`, measured against one HTTP/2 sink with one core for the client: it reaches about
1,050 messages/s, its threaded form 1,600/s; it hangs forever after 100 retried 5xx answers on a connection; it gets
its tokens by a blocking call on the event loop; and it ignores Retry-After.

`config` the account · `render`, `limits` and `classify` pure · `quota` what Google allows · `credentials` the identity
· `check` checks without a network · `online` checks that ask Google · `send` the messages
"""

from .addresses import ADDRESSES as ADDRESSES
from .check import check as check
from .classify import classify as classify
from .config import DEFAULTS as DEFAULTS, Config as Config
from .online import check_online as check_online
from .preview import preview as preview
from .quota import account_limits as account_limits
from .remedies import explain as explain
from .render import PLATFORM as PLATFORM, RENDERER as RENDERER
from .send import open_provider as open_provider
