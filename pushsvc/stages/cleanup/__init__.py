"""Cleanup: expired data is removed in small steps with pauses between them.

    ageing.py  decides which devices have expired: pure
    run.py     the sweeps of a cleanup, step by step, from any place on

A cleanup goes once through the registry and once through all keys. Each step is bounded and atomic, removes only what
is due at that time, and counts only what it removed itself: two cleanups at once, or one after another that was killed,
do no harm, and their counts add up.
"""

from .ageing import Ages, revise
from .run import LOCK, Cleaned, Progress, Sweep, clean, sweeps

__all__ = ["LOCK", "clean", "sweeps", "Sweep", "Cleaned", "Progress", "Ages", "revise"]
