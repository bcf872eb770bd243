"""The rules by which the documents of an app are validated: its platforms, their addresses, its routes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..decoding import WRONG, Rule
from ..model.address import Addresses, AddressFields, Kinds
from ..model.push import Platform
from ..model.routing import CARRIERS, RouteTable
from ..wording import names

PlatformName = Annotated[
    str,
    Meta(description="A provider that is configured for the app.", examples=["apns", "fcm"]),
    Rule('the name of a platform, such as "apns"'),
]
S = TypeVar("S", bound=Struct)


def extended(base: type[S], *fields: Any) -> type[S]:
    """Return a document's struct with further fields, or other types of its own ones, under its own name."""
    made: Any = msgspec.defstruct(base.__name__, fields, bases=(base,), namespace={"__doc__": base.__doc__})
    return made  # type: ignore[no-any-return]  # its base is `base`


@dataclass(frozen=True)
class Rules:
    """The rules that depend on the app: its name, its platforms and routes, and the addresses of all platforms."""

    app: str
    platforms: Collection[Platform]
    """The configured platforms."""
    addresses: Addresses
    max_targets: int = 10_000
    routes: RouteTable = field(default_factory=dict)
    """The account that reaches a token, where tokens belong to an environment."""
    live: bool = False
    """Whether the app has the live channel."""

    @property
    def providers(self) -> set[Platform]:
        """Return the platforms whose provider is configured."""
        return set(self.platforms) - set(CARRIERS)

    @property
    def unknown_platform(self) -> str:
        """Return what is wrong with a platform that does not exist."""
        return f"unknown platform; known are {names(sorted(self.addresses.platforms))}"

    def kinds_of(self, platform: Platform, fields: AddressFields) -> Kinds | None:
        """Return the kinds of a platform's addresses in a document, or None for one that is not configured."""
        return fields.kinds.get(platform) if platform in self.platforms else None

    def target_faults(self, target: Any, fields: AddressFields) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the `platform` of a decoded target, and with its address: it has one of `fields`,
        or needs none.

        A field that is `WRONG` has its fault already.
        """
        platform, kinds = target.platform, None
        if platform is not WRONG:
            kinds = self.kinds_of(platform, fields)
            if kinds is None and platform in self.addresses.platforms:
                where = f"add [apps.{self.app}.{platform}] to the configuration"
                yield "platform", f"{platform} is not configured for the app {self.app}: {where}"
            elif kinds is None:
                yield "platform", self.unknown_platform
        given = fields.given(target)
        if not (given or kinds or kinds is None):
            yield "", f"{platform} has no addresses: name its devices in `to.devices`"
        elif not given and all(kind.field for kind in fields.kinds.get(platform, {}).values()):
            yield next(iter(kinds or fields.names), ""), "is missing"
        if len(given) > 1:
            many = "both" if len(given) == 2 else "all of them"
            yield "", f"may have either {' or '.join(f'`{kind}`' for kind in given)}, not {many}"
        for name in () if kinds is None else given:
            value = getattr(target, name)
            if value is not WRONG and (fault := fields.fault(platform, name, value)) is not None:
                yield name, fault
