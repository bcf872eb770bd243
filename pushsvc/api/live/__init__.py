"""The live channel over HTTP: tokens of devices, and who is online."""
