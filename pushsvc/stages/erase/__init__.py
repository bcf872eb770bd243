"""Erasure: everything that is kept of a user is removed, wherever it is.

The erasure is recorded with the user's ids and tokens; the tokens are marked, so that nothing is sent to them from then
on; the devices leave the registry. Then passes look through all keys, each for all users that wait for one. At the end
the marks hold the instant of the erasure: what was accepted before it ends as `cancelled` wherever it waits, what comes
later is sent. The record becomes a report of counts. A caller works on its erasure as long as its time allows; the next
caller, or the jobs, continue from the step at which it stopped.
"""

from .eraser import ORDER, Eraser

__all__ = ["Eraser", "ORDER"]
