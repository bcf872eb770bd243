"""Intake: pushes in over HTTP, checked whole, accepted once they are in the store.

The calls stand in `routes.py`; a push goes through `auth.Gate`, `document.read` and the renderers to
`PushStore.accept`, and every refusal leaves as a problem document (`problems.py`).
"""

from .app import build_app, reload_app
from .backlog import Backlog
from .config import IntakeApp, IntakeConfig
from .ids import new_push_id, now_ms, uuid7
from .server import serve
from .waits import Waits

__all__ = [
    "build_app",
    "reload_app",
    "serve",
    "Backlog",
    "Waits",
    "IntakeApp",
    "IntakeConfig",
    "new_push_id",
    "now_ms",
    "uuid7",
]
