"""The HTTP API: pushes are validated completely, and accepted once they are in the store.

`routes.py` is the table of all calls. `http.dispatch` processes each request as the row of its call defines, and passes
values to its handler, which uses the ports (`ports.py`). Every refusal is sent as a problem document
(`http/problems.py`).

    http/                                       what all calls share
    pushes/ devices/ letters/ channels/ live/   the calls by subject: rows, documents, handlers
"""

from .app import build_app, reload_app
from .config import ApiApp, ApiConfig, ApiLive
from .ports import ApiPorts
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
    "ApiLive",
    "ApiPorts",
    "new_push_id",
    "now_ms",
    "uuid7",
]
