"""Imports of packages without what they would load and the service does not use."""

from __future__ import annotations

import sys
from importlib import import_module


def import_without(module: str, unwanted: str) -> None:
    """Import a module as if another one, which it would use, were not installed. Does nothing once one of them is
    imported."""
    if module in sys.modules or unwanted in sys.modules:
        return
    sys.modules[unwanted] = None  # type: ignore[assignment]  # by which an import fails
    try:
        import_module(module)
    finally:
        del sys.modules[unwanted]


def import_redis() -> None:
    """Import redis-py without the SDK of OpenTelemetry, which it loads where that is installed: 3 MB for figures of its
    clients, which are not read."""
    import_without("redis", "opentelemetry")
