"""Erasure of users over Redis: finds what is stored about their devices in every kind of key, and removes it.

    subjects.py   the users that are being erased, and how their devices are recognised
    audiences.py  pushes whose audience is still being expanded
    queue.py      deliveries that have not ended
    logs.py       dead letters, receipts, feedback events, quarantine
    rows.py       statuses and rate limits
    passes.py     all keepers
    erasures.py   the records of erasures, and one pass through the keepers

A new kind of key with data of devices needs a keeper; tests/integration/test_erasure.py has a row for each key of
keys.py. The order of the steps, and the processes that run them, are in `stages.erase`.
"""
