"""What an operator looks at and does, over the API of a running service or in the store."""
