"""The HTTP API: pushes come in, are checked whole, and are accepted once they are in the store.

`routes.py` is the table of all calls. A push goes through `http.auth.Gate`, `pushes.document.read` and the renderers to
`PushStore.accept`, and every refusal leaves as a problem document (`http/problems.py`).

    http/                                    what all calls share
    pushes/ devices/ letters/ channels/      the calls by subject
"""

from .app import build_app, reload_app
from .config import ApiApp, ApiConfig
from .pushes.backlog import Backlog
from .pushes.ids import new_push_id, now_ms, uuid7
from .pushes.waits import Waits
from .server import serve

__all__ = [
    "build_app",
    "reload_app",
    "serve",
    "Backlog",
    "Waits",
    "ApiApp",
    "ApiConfig",
    "new_push_id",
    "now_ms",
    "uuid7",
]
