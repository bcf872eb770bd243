"""The WebSocket protocol (RFC 6455), without I/O and without compression.

`frames` turns bytes into messages and back; `handshake` has the request that asks for the upgrade, and its answer.
"""
