"""The demonstration: a script of pushes (`script.py`), and its display (`view.py`)."""
