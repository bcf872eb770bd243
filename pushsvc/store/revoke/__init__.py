"""Revocations: deliveries that must not be sent because they were cancelled, suppressed, superseded, or changed
owner.
"""
