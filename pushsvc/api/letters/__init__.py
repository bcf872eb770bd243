"""Dead letters and replays over HTTP."""
