"""How often Python looks for garbage that has cycles."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Look for cycles after 50,000 new objects instead of 700. Imports and deliveries make hardly any, and each search
    costs a tenth of the speed."""
    gc.set_threshold(50_000, 20, 20)
