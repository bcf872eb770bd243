"""Expansion: the deliveries of an audience, page by page (`fanout.py`), in a fair order of audiences
(`fair_queue.py`)."""
