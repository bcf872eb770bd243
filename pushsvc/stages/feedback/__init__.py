"""The feedback stage: turns receipts of dead and suspect tokens into tombstones, suppressions and feedback events.

The modules::

    stage.py   take receipts, have them judged, applied and recorded
      ├─ watch.py   what the route's recent answers say, and the log of the freeze
      ├─ judge.py   a receipt in progress: judged by policy.prune
      └─ apply.py   strikes, prunes, suppressions, the record
"""

from .config import FeedbackConfig, FeedbackPorts
from .stage import BATCH, LINGER, run
from .watch import frozen_routes

__all__ = ["run", "frozen_routes", "FeedbackConfig", "FeedbackPorts", "BATCH", "LINGER"]
