"""What must not be sent any more: cancelled, suppressed, replaced by a newer push, or no longer of its owner."""
