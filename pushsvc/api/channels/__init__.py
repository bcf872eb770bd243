"""Broadcast channels of APNs by HTTP."""
