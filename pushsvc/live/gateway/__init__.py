"""The gateway: it joins the sockets of devices with their sessions, and their sessions with the streams.

It holds sockets and nothing that matters: a device that is cut off finds everything in its stream. Requests of sessions
are done by `connection`, what others have for them comes by the inbox, and `gateway` holds the connections of a process.
"""

from .gateway import Acknowledged, Confirm, Gateway, open_gateway

__all__ = ["Acknowledged", "Confirm", "Gateway", "open_gateway"]
