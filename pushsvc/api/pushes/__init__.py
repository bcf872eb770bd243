"""Pushes by HTTP: the document, whom it goes to, and the calls about pushes and their feedback."""
