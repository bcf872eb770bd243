"""Pushes over HTTP: the document, its receivers, and the calls about pushes and their feedback."""
