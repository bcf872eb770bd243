"""Cleanup: what has outlived its use is removed, in small steps with pauses between them.

    ageing.py  which devices have outlived their use: pure
    run.py     the sweeps of a cleanup, one step after the other, from any place on

A cleanup goes once through the registry and once through all keys. Each step is bounded and atomic, removes only what
is to go when it takes place, and counts only what it removed itself: two at once, or one after one that was killed,
do no harm, and what each says adds up.
"""

from .ageing import Ages, revise
from .run import LOCK, Cleaned, Progress, Sweep, clean, sweeps

__all__ = ["LOCK", "clean", "sweeps", "Sweep", "Cleaned", "Progress", "Ages", "revise"]
