"""The format of the whole store, and the steps that bring an older one forward."""
