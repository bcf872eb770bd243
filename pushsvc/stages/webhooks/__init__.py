"""Feedback events, and what devices report, sent to a receiver over HTTP: signed, in order, in batches, at least once.

    verdict.py    what follows from an answer: pure
    body.py       the content of a call: pure
    caller.py     one call
    delivery.py   call after call, as long as there are events
    checks.py     what can be checked without a call
    trouble.py    what an operator should know: pure

The events to deliver are in the store (`ports.webhooks`), and so are those that could not be delivered.
"""
