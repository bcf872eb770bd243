"""The commands for devices, and the files that they are imported from and exported to."""
