"""The commands that run the service: each part, and all of them on one machine."""
