"""Replay: dead letters go back into the lanes, step by step.

pace.py  when the next step of a replay with a rate is due: pure
run.py   the steps of one replay, for as long as its worker has time
"""

from .pace import BEHIND, Pace
from .run import STEP, run

__all__ = ["run", "Pace", "BEHIND", "STEP"]
