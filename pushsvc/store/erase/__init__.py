"""Erasure of users over Redis: what is kept of their devices is found wherever it stands, and goes.

    subjects.py   who is being erased, and how their devices are known again
    keepers.py    what a keeper of data is
    audiences.py  pushes that are still being made from an audience
    queue.py      deliveries that have not ended
    logs.py       dead letters, receipts, feedback events, quarantine
    rows.py       statuses and rate limits
    passes.py     all keepers, and which key is whose
    erasures.py   the records of erasures, and one pass through the keepers

Whoever adds a key in which data of a device may stand adds its keeper to `KEEPERS` in passes.py; a test holds the table
of keys.py against it.

The order of all this, and who does it, is `stages.erase`.
"""

from .erasures import RedisErasures

__all__ = ["RedisErasures"]
