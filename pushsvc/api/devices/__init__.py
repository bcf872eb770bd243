"""Devices, users, topics, suppressions and pruned tokens over HTTP."""
