"""What the documents of an app are judged by: its platforms, their targets, its routes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from ..decoding import WRONG, Rule
from ..model.push import Platform
from ..model.routing import RouteTable
from ..ports.provider import Renderer
from ..wording import names

PlatformName = Annotated[
    str,
    Meta(description="A provider that is configured for the app.", examples=["apns", "fcm"]),
    Rule('the name of a platform, such as "apns"'),
]
TokenCheck = Callable[[str, str], str | None]
"""Takes a token and its kind, and gives what is wrong with it, or None: a `Renderer.token_fault`."""


@dataclass(frozen=True)
class Rules:
    """What depends on the app: its name, the token checks of its platforms, and the platforms that exist at all."""

    app: str
    checks: Mapping[Platform, TokenCheck]
    """By configured platform."""
    known: frozenset[Platform]
    max_targets: int = 10_000
    routes: RouteTable = field(default_factory=dict)
    """Which account a token goes by, where tokens belong to an environment."""

    @classmethod
    def of(
        cls,
        app: str,
        platforms: frozenset[Platform],
        renderers: Mapping[Platform, Renderer],
        *,
        max_targets: int = 10_000,
        routes: RouteTable | None = None,
    ) -> Rules:
        """Return the rules of an app with these platforms, of those that there are renderers for."""
        checks = {name: renderers[name].token_fault for name in sorted(platforms & renderers.keys())}
        return cls(app, checks, frozenset(renderers), max_targets, routes or {})

    @property
    def unknown_platform(self) -> str:
        """What is wrong with a platform that does not exist."""
        return f"unknown platform; known are {names(sorted(self.known))}"

    def target_faults(self, target: Any, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the `platform` of a decoded target, and with its fields `kinds`: it has one of them.

        A field that is `WRONG` has its fault already.
        """
        platform, check = target.platform, None
        if platform is not WRONG:
            check = self.checks.get(platform)
            if check is None and platform in self.known:
                where = f"add [apps.{self.app}.{platform}] to the configuration"
                yield "platform", f"{platform} is not configured for the app {self.app}: {where}"
            elif check is None:
                yield "platform", self.unknown_platform
        given = [kind for kind in kinds if getattr(target, kind) is not None]
        if not given:
            yield "token", "is missing"
        if len(given) > 1:
            many = "both" if len(given) == 2 else "all of them"
            yield "", f"holds either {' or '.join(f'`{kind}`' for kind in given)}, not {many}"
        for kind in given:
            text = getattr(target, kind)
            if check is not None and text is not WRONG and (fault := check(text, kind)) is not None:
                yield kind, fault
