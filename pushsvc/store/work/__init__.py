"""Coordination of processes: signs of life, leases, running processes, held routes."""
