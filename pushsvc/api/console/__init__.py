"""The console at `/console`: its files, its sessions, and the stream of its figures. Its pages use the calls of the
API, which a session opens like the key that it was begun with."""
