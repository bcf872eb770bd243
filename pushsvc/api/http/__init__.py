"""What all calls of the API share: authentication, body, parameters, refusals as problem documents, connections."""
