"""Pure judgement: clock and randomness are arguments, and nothing here reads or writes anything."""
