"""Expansion: the deliveries of an audience, page by page (`fanout.py`), one audience after another (`turns.py`)."""
