"""Erasure of users over Redis: what is kept of their devices is found wherever it stands, and goes.

    subjects.py   who is being erased, and how their devices are known again
    keepers.py    what a keeper of data is
    audiences.py  pushes that are still being made from an audience
    queue.py      deliveries that have not ended
    logs.py       dead letters, receipts, feedback events, quarantine
    rows.py       statuses and rate limits
    passes.py     one pass: the keepers, one after the other

Whoever adds a key in which data of a device may stand adds its keeper to `KEEPERS` in passes.py; a test holds the table
of keys.py against it.

How an erasure goes: it is recorded with the ids and tokens; the tokens are marked, so that from now on nobody sends to
them; the devices leave the registry. Then passes look through everything, for all users at once that wait for one. At
the end the marks say when that was: what was accepted before ends as `cancelled` wherever it waits, what comes later is
sent (see `suppression.py`). The record becomes a report of counts. A caller does this itself as far as its time goes;
what is left is gone on with by whoever comes next, from the step at which it was left.
"""

from .erasures import RedisErasures

__all__ = ["RedisErasures"]
