"""`pushsvc stats`, and the figures that it shows."""
