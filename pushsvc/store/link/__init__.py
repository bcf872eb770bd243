"""The way to Redis: connections and failover, scripts, group commits, durability, the clock of the store."""
