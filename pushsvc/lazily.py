"""Packages whose names are imported when they are first used, so that a process loads only what it runs.

A package that exports names of heavy modules imports them under `TYPE_CHECKING`, and names their modules for
`exports`. A test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


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


def exports(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of `package`. `modules` has by module the names that it exports, with spaces between."""
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def look_up(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f".{homes[name]}", package), name)
        setattr(sys.modules[package], name, found)
        return found

    return look_up
