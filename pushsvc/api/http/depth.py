"""The bound on the nesting of JSON that is passed to providers. Pure."""

from __future__ import annotations

from typing import Any, Final

MAX_DEPTH: Final = 100
"""Levels of lists and objects; what fits into a provider's payload limit has far fewer."""


def too_deep(value: Any) -> bool:
    """Return whether lists and objects are nested more than `MAX_DEPTH` levels."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def depth_fault(value: Any) -> str | None:
    """Return what is wrong with the nesting of a value, or None."""
    return f"is nested more than {MAX_DEPTH} levels deep" if too_deep(value) else None
