"""Administration over HTTP: the state of an app, its lists, and the acts of its operator."""
