"""Apple Push Notification service.

aioapns signs the provider token; requests use our own HTTP/2 pool (`pushsvc.net.http2`). Reasons against aioapns's
client, measured against one HTTP/2 sink with one core for the client:
it reaches about 3,900 pushes/s; after about 2,500 error answers on a connection it stops forever, because it never
returns flow-control credit; at a GOAWAY it sends everything in flight again (200 pushes became 483 requests); a
request has no timeout; and cancelling one call cancels others. Each of these loses or repeats pushes in exactly the
trouble that this service is made for.

`config` the account · `vocabulary` constants · `render` and `classify` pure · `credentials` the identity · `check`
checks without a network · `online` checks that ask Apple · `send` deliveries · `targets` which token goes with which
push · `channels` management of broadcast channels
"""

from .channels import open_channels as open_channels
from .check import check as check
from .classify import classify as classify
from .config import DEFAULTS as DEFAULTS, MORE as MORE, Config as Config, environment as environment
from .online import check_online as check_online
from .preview import preview as preview
from .remedies import explain as explain
from .render import RENDERER as RENDERER
from .send import open_provider as open_provider
from .targets import ADDRESSES as ADDRESSES
from .vocabulary import PLATFORM as PLATFORM
