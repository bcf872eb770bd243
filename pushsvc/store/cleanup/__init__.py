"""What has outlived its use in Redis, and the record of cleanups."""
