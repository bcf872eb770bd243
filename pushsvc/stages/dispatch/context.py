"""What all routes of one process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from ...model.devices import Environment
from ...model.push import Platform
from ...ports.limits import Limiter
from ...ports.queue import DeliveryQueue
from .config import DispatchConfig
from .lease import Lease
from .preemption import Preemption
from .revoking import RevocationLog

Environments: TypeAlias = Callable[[str], Mapping[Platform, Environment]]
"""Returns the environment of each account of an app, by its route, where tokens belong to one."""


class DispatchContext(NamedTuple):
    queue: DeliveryQueue
    config: DispatchConfig
    hash_token: Callable[[Platform], Callable[[str], str]]
    limiter: Limiter | None
    environments: Environments
    wall_clock: Callable[[], float]
    random: Callable[[], float]
    lease: Lease
    preemption: Preemption
    revocations: RevocationLog
