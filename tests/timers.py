"""How exactly a test can expect an event loop to keep time."""

from __future__ import annotations

from typing import Final

EARLY: Final = 0.002
"""Seconds by which a timer may fire early: uvloop counts in whole milliseconds, asyncio in ticks of its clock. A test
that measures a wait by a real clock allows for it: https://docs.python.org/3/library/asyncio-eventloop.html"""
