"""Broadcast channels of APNs over HTTP."""
