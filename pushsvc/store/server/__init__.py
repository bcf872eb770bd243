"""The embedded store: a server of our own on a unix socket."""
