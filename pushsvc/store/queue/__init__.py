"""The lanes: entries taken, settled, retried, launched and taken over from who is gone."""
