"""The gateway: it joins the sockets of devices with their sessions, and their sessions with the streams.

It holds sockets and nothing that matters: a device that is cut off finds everything in its stream. `connection` does
what a session asks for, and `gateway` holds the connections of a process and hands them what comes into its inbox.
"""

from .acks import Confirm
from .gateway import Gateway, open_gateway

__all__ = ["Confirm", "Gateway", "open_gateway"]
