"""Dead letters: listed, and sent again by replays."""
