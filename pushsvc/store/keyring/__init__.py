"""API keys that are kept in the store, and the key of all token hashes."""
