"""The connection to Redis: clients and failover, scripts, group commits, durability, the clock of the store."""
