"""Simulated phones: devices of the live channel by the thousand, in one process.

Each is one object on one socket, and speaks the protocol as an official client does. `behaviour` says what a phone does
with what it gets and what its network does to it; `shown` what it has shown its user.
"""
