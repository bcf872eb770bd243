"""The live gateway: connections of devices that are online, over which pushes are sent and acknowledged.

`sockets` serves the transports and knows no protocol; `protocol` is the session of a device and knows no socket. They
meet in `peer`, and share the deadlines of `wheel`. The gateway stands beside the stages and imports none of them.
"""
