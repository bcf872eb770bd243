"""Who works on what: signs of life, leases, live processes, held routes."""
