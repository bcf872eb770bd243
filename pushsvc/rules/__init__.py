"""Pure decisions: clock and randomness are arguments, and nothing here performs I/O."""
