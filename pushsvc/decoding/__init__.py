"""Decodes plain values of JSON and TOML into annotated structs: strictly, and with every fault at once. Pure.

msgspec stops at its first fault, but an author wants to correct all faults of a document together. So structs, objects
and lists are walked here; single values are left to msgspec, including bounds and patterns. The accepted values and the
results are those of `msgspec.convert` for the same types, except for what the `Rule`s of the types and the `checks` of
the structs refuse. A value of type `msgspec.Raw` stays the plain value that it is.

A required field that is null is missing. No fault repeats a long value, or any value under a name of a secret.

`shapes` takes types apart, `walk` decodes by them, and `checks` tests what msgspec has decoded: the fast way.
"""

from __future__ import annotations

from .checks import NO_CHECKS, Check, Checks, right
from .shapes import Rule, expected, fraction, is_struct, unprintable
from .walk import WRONG, Enough, Faults, decode

__all__ = [
    "decode",
    "right",
    "Rule",
    "Check",
    "Checks",
    "NO_CHECKS",
    "Faults",
    "Enough",
    "WRONG",
    "expected",
    "is_struct",
    "unprintable",
    "fraction",
]
