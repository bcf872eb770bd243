"""The WebSocket protocol for a server (RFC 6455), without I/O and without compression.

`frames` turns bytes into messages and back; `handshake` answers the request that asks for the upgrade.
"""
