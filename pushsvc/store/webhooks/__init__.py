"""How far each webhook has come, and what it could not deliver."""
