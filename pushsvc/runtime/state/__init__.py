"""The state of the service, read from the store: for the API, `/readyz`, the metrics and the log."""
