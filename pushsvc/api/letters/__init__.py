"""Dead letters and replays by HTTP."""
