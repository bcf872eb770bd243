"""Replay: dead letters go back into the lanes, step by step."""

from .run import BEHIND, STEP, Pace, run

__all__ = ["run", "Pace", "BEHIND", "STEP"]
