"""The parts of the simulator for each platform. A new platform is a module and one line in `HALVES`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from msgspec import Struct

from . import apns, broadcast, fcm
from .apns_provider import SimulatedApns
from .certificates import Credentials
from .fcm_provider import SimulatedFcm
from .provider import Setup, SimulatedProvider
from .scenario import nameable
from .tokens import apns_token, channel_id, fcm_token


class TokenKind(Struct, frozen=True):
    """A kind of target that can have a scenario."""

    make: Callable[[str, str], str]
    """Returns the target that plays a scenario, from the scenario and any text. Raises `ScenarioError`."""
    reasons: Collection[str]
    """The reasons of answers that the scenario may name."""


class Half(Struct, frozen=True):
    """The parts for one platform."""

    make: Callable[[Setup], SimulatedProvider]
    """Creates the simulated provider."""
    section: Callable[[Credentials, str], str]
    """Returns the body of `[apps.NAME.<platform>]`, from the credentials' files and the URL of the port."""
    tokens: Mapping[str, TokenKind]
    """The kinds of targets by name; the one with the platform's name is a device token."""


def _apns_section(credentials: Credentials, url: str) -> str:
    return f"""\
key_file = "{credentials.apns_key_file.absolute()}"
key_id = "{credentials.key_id}"
team_id = "{credentials.team_id}"
topic = "{credentials.topic}"
endpoint = "{url}"
channels_endpoint = "{url}"
ca_file = "{credentials.ca_file.absolute()}"
"""


def _fcm_section(credentials: Credentials, url: str) -> str:
    return f"""\
service_account_file = "{credentials.service_account_file.absolute()}"
endpoint = "{url}"
ca_file = "{credentials.ca_file.absolute()}"
"""


HALVES: Final[dict[str, Half]] = {
    "apns": Half(
        make=SimulatedApns,
        section=_apns_section,
        tokens={
            "apns": TokenKind(apns_token, nameable(apns.REASONS)),
            "channel": TokenKind(channel_id, nameable(broadcast.REASONS)),
        },
    ),
    "fcm": Half(make=SimulatedFcm, section=_fcm_section, tokens={"fcm": TokenKind(fcm_token, nameable(fcm.ERRORS))}),
}
"""By platform."""


def sections_of(app: str, urls: Mapping[str, str], credentials: Credentials) -> str:
    """Return the sections of the configuration with which an app pushes to the simulator."""
    return "\n".join(f"[apps.{app}.{name}]\n{HALVES[name].section(credentials, url)}" for name, url in urls.items())


def token_kinds() -> dict[str, TokenKind]:
    """Return every kind of target that can have a scenario, by name, device tokens first."""
    named = [(name, kind) for platform, half in HALVES.items() for name, kind in half.tokens.items()]
    return dict(sorted(named, key=lambda each: each[0] not in HALVES))
