"""Pushes: accepted, cancelled, shown, and their audiences expanded."""
