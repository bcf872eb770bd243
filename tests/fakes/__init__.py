"""The store in plain dictionaries, for tests of everything above the ports.

`MemoryStore` follows the same rules as the store over Redis; the contract suite runs on both.
"""

from .store import MemoryStore

__all__ = ["MemoryStore"]
