"""The HTTP API: pushes are validated completely, and accepted once they are in the store.

`routes.py` is the table of all calls. `http.dispatch` processes each request as the row of its call defines, and passes
values to its handler, which uses the ports (`ports.py`). Every refusal is sent as a problem document
(`http/problems.py`).

    http/                                       what all calls share
    pushes/ devices/ letters/ channels/ live/   the calls by subject: rows, documents, handlers
"""

from typing import TYPE_CHECKING

from ..lazily import exports

if TYPE_CHECKING:
    from .app import build_app as build_app, reload_app as reload_app
    from .config import ApiApp as ApiApp, ApiConfig as ApiConfig, ApiLive as ApiLive
    from .ports import ApiPorts as ApiPorts
    from .pushes.backlog import Backlog as Backlog
    from .pushes.ids import new_push_id as new_push_id, now_ms as now_ms, uuid7 as uuid7
    from .pushes.waits import Waits as Waits
    from .server import serve as serve
else:
    __getattr__ = exports(
        __name__,
        {
            "app": "build_app reload_app",
            "config": "ApiApp ApiConfig ApiLive",
            "ports": "ApiPorts",
            "pushes.backlog": "Backlog",
            "pushes.ids": "new_push_id now_ms uuid7",
            "pushes.waits": "Waits",
            "server": "serve",
        },
    )
