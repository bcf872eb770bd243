"""How many of what stand together in one value, and the other numbers that modules and Lua scripts share.

A script names those that it uses in its line `-- layout:`. The keys themselves are in keys.py.
"""

from ..model.codec import FEW as FEW
from ..model.status import ROWS_FOR_ALL

SMALL = ROWS_FOR_ALL
"""Pushes of up to this number of deliveries store a row of each; larger ones only of those that were not sent."""

LISTED = 16
"""Pushes in one entry of the list of pushes: about 600 bytes."""
LISTED_ENTRIES = 100_000
"""Entries of the list of pushes of a shard, approximately: at most some 60 MB."""
TOGETHER = 16
"""Single pushes of one write that share an entry of a lane."""
BLOCK = 128
"""Devices in one list of device documents."""
TURNS = 128
"""Deliveries of a large push whose turns stand in one field."""
SEEN_EVERY = 3_600_000
"""Milliseconds between two signs of life that a device's document notes."""
BUCKETS = 1 << 16
"""The number of hashes of one index of devices."""
CONTAINER = 4096
"""Ordinals in one field of a topic."""
STREAMS = 32
"""Devices in one list of their streams."""
INDEXES = 1 << 28
"""Numbers that the index of a delivery may have in a stream; the bits above are its platform."""
DENSE = CONTAINER // 8
"""Bytes of a container that is a bitmap; a list of 2-byte numbers is shorter than that."""
