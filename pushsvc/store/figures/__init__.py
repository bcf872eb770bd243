"""Figures of the queues for metrics and `stats`."""
