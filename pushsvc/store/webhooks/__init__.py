"""The progress of each webhook, and the batches it could not deliver."""
