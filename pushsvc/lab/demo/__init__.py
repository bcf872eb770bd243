"""The demonstration: a script of pushes (`script.py`), and how it is shown (`view.py`)."""
