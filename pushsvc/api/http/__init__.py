"""What every call of the API shares: who calls, body, parameters, refusals as problem documents, connections."""
