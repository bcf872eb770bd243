"""Receipts of deliveries, feedback events, and counts of what the providers answered."""
