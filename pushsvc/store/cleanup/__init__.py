"""Cleanup in Redis: finds expired data, and keeps the record of the runs."""
