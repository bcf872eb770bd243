"""Simulated phones: devices of the live channel by the thousand, in one process.

Each is one object with one socket, and speaks the protocol as an official client does. `behaviour` names what a phone
does with what it gets and what its network does to it, `socket` lets the network do so, and `shown` is what the phone
has shown its user.
"""
