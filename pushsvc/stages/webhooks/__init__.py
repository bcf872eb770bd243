"""Feedback events told to a receiver over HTTP: signed, in order, in batches, at least once.

    verdict.py    what follows from an answer: pure
    body.py       what a call says: pure
    caller.py     one call
    delivery.py   call after call, as long as there is something to tell
    check.py      what can be seen without a call
    trouble.py    what an operator should know: pure

What is to be told next stands in the store (`ports.webhooks`), and so does what could not be told.
"""

from .body import trial_body
from .caller import open_caller
from .check import check
from .config import WebhookConfig
from .delivery import deliver
from .trouble import trouble_of

__all__ = ["WebhookConfig", "open_caller", "deliver", "check", "trial_body", "trouble_of"]
