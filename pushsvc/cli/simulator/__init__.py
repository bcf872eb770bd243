"""The simulator of the providers, simulated phones, and the load that uses them."""
