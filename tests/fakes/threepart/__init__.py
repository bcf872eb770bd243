"""A provider that lives in the tests alone: its addresses have three parts, as those of Web Push.

It is a package with the fixed names, as `pushsvc.providers` says, and a half of the simulator; `registered` puts one
line into each registry. Nothing in `pushsvc` knows of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pushsvc.lab.simulator.halves import HALVES
from pushsvc.providers import REGISTRY, kinds_of
from pushsvc.runtime.providers import addresses

from .provider import (
    ADDRESSES,
    DEFAULTS,
    PLATFORM,
    RENDERER,
    Config,
    Keys,
    Subscription,
    account_limits,
    check,
    classify,
    open_provider,
    preview,
)
from .simulated import HALF, subscription

__all__ = [
    "PLATFORM",
    "ADDRESSES",
    "Config",
    "DEFAULTS",
    "RENDERER",
    "classify",
    "open_provider",
    "preview",
    "check",
    "account_limits",
    "Subscription",
    "Keys",
    "subscription",
    "registered",
]


@contextmanager
def registered() -> Iterator[None]:
    """While this is open, the provider is one of those that there are."""
    with pytest.MonkeyPatch.context() as patch:
        for route, kind in kinds_of(sys.modules[__name__]).items():
            patch.setitem(REGISTRY, route, kind)
        patch.setitem(HALVES, PLATFORM, HALF)
        addresses.cache_clear()
        yield
    addresses.cache_clear()
