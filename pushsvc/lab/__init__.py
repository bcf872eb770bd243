"""Tools around the service, of which the service needs none: the simulator of the providers, and the demonstration."""
