"""Erasure: everything that is kept of a user goes, wherever it stands.

How an erasure goes: it is recorded with the ids and tokens; the tokens are marked, so that from now on nobody sends to
them; the devices leave the registry. Then passes look through everything, for all users at once that wait for one. At
the end the marks say when that was: what was accepted before ends as `cancelled` wherever it waits, what comes later is
sent. The record becomes a report of counts. A caller does this itself as far as its time goes; what is left is gone on
with by whoever comes next, from the step at which it was left.
"""

from .eraser import ORDER, Eraser

__all__ = ["Eraser", "ORDER"]
