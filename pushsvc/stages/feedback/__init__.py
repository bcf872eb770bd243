"""The feedback stage: receipts of dead and suspect tokens become tombstones, suppressions and feedback events.

How the parts stand to one another::

    stage.py   take receipts, have them judged, acted on and recorded
      ├─ watch.py   what the route's recent answers say, and the freeze as it is told
      ├─ judge.py   a receipt on its way: judged by policy.prune
      └─ apply.py   strikes, prunes, suppressions, the record
"""

from .config import FeedbackConfig, FeedbackPorts
from .stage import BATCH, LINGER, WAIT_MS, run
from .watch import frozen_routes

__all__ = ["run", "frozen_routes", "FeedbackConfig", "FeedbackPorts", "BATCH", "WAIT_MS", "LINGER"]
