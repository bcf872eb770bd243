"""The commands for pushes, and for those of their deliveries that failed."""
