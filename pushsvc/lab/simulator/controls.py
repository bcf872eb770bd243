"""The commands that make a simulator misbehave. Each is a value, which HTTP, tests and the process handle share.
`platform` is the name of one, or None for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, assert_never, get_args

import msgspec
from msgspec import Struct

from .frames import ErrorCode
from .provider import Clock, SimulatedProvider
from .record import Record


class _Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    platform: str | None = None


class Goaway(_Command, frozen=True, tag="goaway"):
    """Send GOAWAY on every connection, which then closes."""

    graceful: bool = False
    """Whether it is sent in two steps: first "open no more", a round trip later the last stream that is processed."""
    keep: int | None = None
    """The number of the oldest waiting requests to answer, which last_stream_id states; None: all that were
    received."""


class Reset(_Command, frozen=True, tag="reset"):
    """Send RST_STREAM on every request that waits for its answer."""

    code: int = int(ErrorCode.INTERNAL_ERROR)


class Stall(_Command, frozen=True, tag="stall"):
    """Stop answering. When this is switched off, the waiting requests are processed."""

    on: bool = True


class Unavailable(_Command, frozen=True, tag="unavailable"):
    """Answer 503 to everything."""

    on: bool = True
    seconds: float | None = None
    """Seconds until it ends; None: until it is switched off."""
    retry_after: int | None = None


class Throttle(_Command, frozen=True, tag="throttle"):
    """Answer 429 beyond a rate for each app (topic) or project."""

    rate: float
    """Requests a second; 0: no limit."""
    burst: float = 1.0
    retry_after: int | None = None


class Streams(_Command, frozen=True, tag="streams"):
    """Change SETTINGS_MAX_CONCURRENT_STREAMS of present and later connections."""

    limit: int


class Drop(_Command, frozen=True, tag="drop"):
    """Drop every TCP connection without notice."""


class Credentials(_Command, frozen=True, tag="credentials"):
    """Refuse all credentials (InvalidProviderToken, 401 UNAUTHENTICATED) until this is switched off."""

    refuse: bool = True
    token_endpoint: bool = False
    """Refuse at the OAuth token endpoint as well."""


class Revoke(_Command, frozen=True, tag="revoke"):
    """Revoke all OAuth access tokens that were issued until now; new ones are issued."""


class Latency(_Command, frozen=True, tag="latency"):
    """Delay every answer."""

    seconds: float


class Credit(_Command, frozen=True, tag="credit"):
    """Keep consumed flow-control credit instead of returning it, on the present connections."""

    hold: bool = True


class Calm(_Command, frozen=True, tag="calm"):
    """Switch everything off: stall, unavailable, throttle, credentials, latency, kept credit."""


Command: TypeAlias = (
    Goaway | Reset | Stall | Unavailable | Throttle | Streams | Drop | Credentials | Revoke | Latency | Credit | Calm
)


COMMANDS: Final = tuple(str(each.__struct_config__.tag) for each in get_args(Command))
"""The names of all commands."""


def usage(command: str) -> str:
    """Return the fields of a command as JSON, with their defaults; `..` is a number that must be given."""
    (kind,) = (each for each in get_args(Command) if each.__struct_config__.tag == command)
    fields = {each.name: each.default for each in msgspec.structs.fields(kind) if each.name != "platform"}
    shown = (
        f'"{name}": {".." if value is msgspec.NODEFAULT else msgspec.json.encode(value).decode()}'
        for name, value in fields.items()
    )
    return f"{{{', '.join(shown)}}}"


class Commanded(ABC):
    """A simulator that can be commanded, in this process or in another one."""

    @abstractmethod
    def control(self, command: str, **fields: Any) -> int:
        """Run a command, such as `control("stall", on=True)`. Returns the number of connections or streams that it
        affected."""

    def break_credentials(self, platform: str | None = None, *, token_endpoint: bool = False) -> None:
        """Refuse the platform's credentials (None: of all platforms) until `restore_credentials`."""
        self.control("credentials", refuse=True, token_endpoint=token_endpoint, platform=platform)

    def restore_credentials(self, platform: str | None = None) -> None:
        """Accept the credentials again."""
        self.control("credentials", refuse=False, platform=platform)


class Controls(Commanded):
    """Applies commands to the providers."""

    def __init__(self, providers: Mapping[str, SimulatedProvider], record: Record, clock: Clock) -> None:
        self.record = record
        """What the simulator received."""
        self.providers = providers
        self._clock = clock

    def _chosen(self, platform: str | None) -> Iterable[SimulatedProvider]:
        return self.providers.values() if platform is None else (self.providers[platform],)

    def control(self, command: str, **fields: Any) -> int:
        """See `Commanded`. Raises msgspec's `ValidationError`, and `KeyError` where the platform is not simulated."""
        asked = msgspec.convert({**fields, "command": command}, Command)
        return sum(self._apply(provider, asked) for provider in self._chosen(asked.platform))

    def _apply(self, provider: SimulatedProvider, command: Command) -> int:
        switches = provider.switches
        match command:
            case Goaway():
                return provider.go_away(graceful=command.graceful, keep=command.keep)
            case Reset():
                return provider.reset_streams(command.code)
            case Stall():
                provider.stall(command.on)
            case Unavailable():
                forever = float("inf") if command.seconds is None else self._clock() + command.seconds
                switches.unavailable(forever if command.on else 0.0)
                switches.retry_after = command.retry_after
            case Throttle():
                switches.throttle(command.rate, command.burst)
                switches.retry_after = command.retry_after
            case Streams():
                provider.limit_streams(command.limit)
            case Drop():
                return provider.drop_connections()
            case Credentials():
                switches.credentials_refused = command.refuse
                switches.token_endpoint_refuses = command.refuse and command.token_endpoint
            case Latency():
                switches.latency = command.seconds
            case Credit():
                provider.hold_credit(command.hold)
            case Calm():
                switches.calm()
                switches.latency = 0.0
                provider.stall(False)
                provider.hold_credit(False)
            case Revoke():
                provider.revoke_access_tokens()
            case _:
                assert_never(command)
        return len(provider.connections)

    def clear(self) -> None:
        """Delete the requests, and the request counts of tokens with a scenario."""
        self.record.clear()
        for provider in self.providers.values():
            provider.reset_scenarios()

    def state(self) -> dict[str, Any]:
        """Return what is switched on, and the numbers of connections and waiting requests."""
        return {
            name: {
                "connections": len(provider.connections),
                "waiting": sum(connection.open_streams for connection in provider.connections),
                "streams": provider.streams,
                "stalled": provider.switches.stalled,
                "credentials_refused": provider.switches.credentials_refused,
                "latency": provider.switches.latency,
            }
            for name, provider in self.providers.items()
        }
