"""How a provider names its targets: the kinds of addresses that it knows, each a field of the documents. Pure.

An address is a kind and a text. Its text is brought to its canonical form where it enters (push, device, import, the
calls that name a token), so that nothing behind the edge sees two forms of one address. An address of several parts is
an object in the documents and compact JSON behind the edge, its parts in the order in which its kind declares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct, UnsetType

from ..decoding import Rule, right
from .push import Platform
from .routing import environments_of, platform_of

Check: TypeAlias = Callable[[str], object]
"""Takes a text and gives something true where it can be an address. Generous: the provider knows best."""
Form: TypeAlias = Callable[[str], str]
"""Takes a text and gives another form of it; `str` leaves it as it is."""


class AddressKind(Struct, frozen=True):
    fits: Check
    wrong: str
    """The message for a text that does not fit."""
    canonical: Form = str
    """Takes a text without fault and gives the one form in which it is kept, sent and compared."""
    same: Form = str
    """Takes a canonical text and gives what two of them have in common that name one target."""
    renewable: Check | None = None
    """Takes a canonical text and gives something true where it can become valid again after it was dead; None: never.
    """
    environments: bool = False
    """Whether an address is valid in one of the provider's environments only."""
    device: bool = False
    """Whether a device is registered by it. A provider's addresses of devices are compared with each other."""
    field: bool = True
    """Whether documents have a field for it."""
    parts: type[Struct] | None = None
    """Of an address of several parts their names and types; None: it is one text."""
    description: str = ""
    """One sentence for the API's document."""

    def text_of(self, value: Any) -> str:
        """Return the text of an address, as yet in no canonical form, from the value of its field."""
        return value if self.parts is None else msgspec.json.encode(value).decode()

    def value_of(self, text: str) -> Any:
        """Return what its field holds for an address with this text."""
        return text if self.parts is None else msgspec.json.decode(text, type=self.parts)


NO_ADDRESS: Final = AddressKind(str, "", device=True, field=False, description="The id of the device.")
"""The kind of a provider whose devices need no address: its text is the device's id, and documents have no field."""

Kinds: TypeAlias = Mapping[str, AddressKind]
"""By the name of their field."""


class AddressFields:
    """The fields for the addresses of all platforms, in one sort of document."""

    def __init__(self, kinds: Mapping[Platform, Kinds]) -> None:
        """Join the kinds of each platform. Raises `ValueError` for two of one name with values of different types."""
        self.kinds = kinds
        types: dict[str, Any] = {}
        descriptions: dict[str, dict[str, None]] = {}
        for name, kind in ((name, kind) for own in kinds.values() for name, kind in own.items() if kind.field):
            if types.setdefault(name, kind.parts or str) is not (kind.parts or str):
                raise ValueError(f"the address `{name}` of two providers has two types")
            descriptions.setdefault(name, {})[kind.description] = None
        self.names = tuple(types)
        self.objects = frozenset(name for name, kind in types.items() if kind is not str)
        """Those of addresses of several parts."""
        self.optional = not all(kind.field for own in kinds.values() for kind in own.values())
        """Whether there is a platform whose devices need none."""
        self._fields = [
            (name, kind, Meta(description=" ".join(descriptions[name])), Rule(secret=True if kind is not str else None))
            for name, kind in types.items()
        ]

    def declared(self, absent: UnsetType | None) -> list[tuple[str, Any, UnsetType | None]]:
        """Return the fields as `msgspec.defstruct` takes them. One that is left out is `absent`."""
        return [(name, Annotated[kind | type(absent), text, rule], absent) for name, kind, text, rule in self._fields]

    def given(self, document: Any) -> list[str]:
        """Return the names of those fields that a document has."""
        return [name for name in self.names if getattr(document, name) is not None]

    def fault(self, platform: Platform, name: str, value: Any) -> str | None:
        """Return why the value of a field cannot be an address at a platform, or None if it can."""
        kind = self.kinds[platform].get(name)
        if kind is None:
            known = " or ".join(f"`{each}`" for each, kind in self.kinds[platform].items() if kind.field)
            return f"{platform} takes {known}, not `{name}`" if known else f"leave it out: {platform} has no addresses"
        return None if kind.fits(kind.text_of(value)) else kind.wrong

    def address_of(self, document: Any, device_id: str = "") -> tuple[str, str]:
        """Return the kind and the canonical text of the address in a document without fault, or those of the device
        `device_id` if it needs no address."""
        kinds = self.kinds[document.platform]
        for name in self.given(document):
            return name, kinds[name].canonical(kinds[name].text_of(getattr(document, name)))
        return next(name for name, kind in kinds.items() if not kind.field), device_id

    def filled(self, platform: Platform, kind: str, text: str) -> dict[str, Any]:
        """Return the field of an address with its value. It is empty if documents have no field for this kind."""
        known = self.kinds.get(platform, {}).get(kind)
        return {kind: known.value_of(text)} if known is not None and known.field else {}


class Addresses:
    """The kinds of addresses of all platforms."""

    def __init__(self, kinds: Mapping[Platform, Kinds]) -> None:
        def only(wanted: Callable[[AddressKind], bool]) -> AddressFields:
            return AddressFields(
                {owner: {name: kind for name, kind in own.items() if wanted(kind)} for owner, own in kinds.items()}
            )

        self.targets = only(lambda kind: kind.field)
        """What the targets of a push are named by."""
        self.devices = only(lambda kind: kind.device)
        """What devices are registered by."""

        self._same = {platform: next(iter(own.values())).same for platform, own in self.devices.kinds.items() if own}

    def same_of(self, route: Platform) -> Form:
        """Return the form in which the addresses of devices are compared, by the platform or the name of a route."""
        return self._same.get(platform_of(route), str)

    def identity(self, platform: Platform, text: str) -> tuple[Platform, str]:
        """Return what two canonical addresses have in common that name the same device."""
        return platform, self.same_of(platform)(text)

    def is_renewable(self, route: Platform, text: str) -> bool:
        """Return whether a dead address can become valid again."""
        kinds = self.devices.kinds.get(platform_of(route), {}).values()
        return any(kind.renewable(text) for kind in kinds if kind.renewable is not None)

    def routes_of(self, platform: Platform) -> tuple[Platform, ...]:
        """Return every name that a route of the platform can have."""
        divided = any(kind.environments for kind in self.devices.kinds.get(platform, {}).values())
        return environments_of(platform) if divided else (platform,)

    def recognised(self, platform: Platform, text: str) -> str:
        """Return the canonical form of an address whose kind is unknown: that of the first kind that it fits."""
        for kind in self.targets.kinds.get(platform, {}).values():
            with suppress(msgspec.MsgspecError):
                value = kind.value_of(text)
                if (kind.parts is None or right(value)) and kind.fits(address := kind.text_of(value)):
                    return kind.canonical(address)
        return text

    @property
    def platforms(self) -> tuple[Platform, ...]:
        return tuple(self.targets.kinds)


NO_ADDRESSES: Final = Addresses({})
"""Without a platform: every text is compared as it is."""
