"""Rate limits (GCRA) on the server's clock."""
