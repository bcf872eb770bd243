"""Devices, users, topics, suppressions and pruned tokens by HTTP."""
