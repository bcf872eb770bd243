"""The registry of devices: packed documents and the indexes over them."""
