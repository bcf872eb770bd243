"""What `pushsvc check` finds."""
