"""How a provider names its targets: the kinds of addresses that it knows, each a field of the documents. Pure.

An address is a kind and a text. Its text is brought to its canonical form where it enters (push, device, import, the
calls that name a token), so that nothing behind the edge sees two forms of one address. An address of several parts is
an object in the documents and compact JSON behind the edge, its parts in the order in which its kind declares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from msgspec import Struct

from .push import Platform

Check: TypeAlias = Callable[[str], object]
"""Takes a text and gives something true where it can be an address. Generous: the provider knows best."""
Form: TypeAlias = Callable[[str], str]
"""Takes a text and gives another form of it; `str` leaves it as it is."""


class AddressKind(Struct, frozen=True):
    """One kind of a provider's addresses."""

    fits: Check
    wrong: str
    """What is said of a text that does not fit."""
    canonical: Form = str
    """Takes a text without fault and gives the one form in which it is kept, sent and compared."""
    same: Form = str
    """Takes a canonical text and gives what two of them have in common that name one target."""
    device: bool = False
    """Whether a device is registered by it. A provider's addresses of devices are compared with each other."""
    parts: type[Struct] | None = None
    """Of an address of several parts their names and types; None: it is one text."""
    description: str = ""
    """One sentence for the API's document."""


Kinds: TypeAlias = Mapping[str, AddressKind]
"""By the name of their field."""


def fault_of(platform: Platform, kind: str, text: str, kinds: Kinds) -> str | None:
    """Return why a text cannot be an address of a kind at a platform that knows `kinds`, or None if it can."""
    known = kinds.get(kind)
    if known is None:
        return f"{platform} knows {' and '.join(f'`{name}`' for name in kinds)}, not `{kind}`"
    return None if known.fits(text) else known.wrong
