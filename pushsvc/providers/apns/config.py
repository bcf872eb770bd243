"""`[apps.NAME.apns]`: the account of an app at APNs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from ...model.defaults import Defaults
from ...model.devices import Environment
from ...net.proxy import proxy_fault
from ..endpoint import endpoint_fault, origin

ENDPOINTS = {
    "production": "https://api.push.apple.com",
    "sandbox": "https://api.sandbox.push.apple.com",
}
CHANNELS_ENDPOINTS = {
    "production": "https://api-manage-broadcast.push.apple.com:2196",
    "sandbox": "https://api-manage-broadcast.sandbox.push.apple.com:2195",
}
"""Source: https://developer.apple.com/documentation/usernotifications/sending-channel-management-requests-to-apns"""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either a token key (`key_file`, `key_id`, `team_id`) or a certificate (`cert_file`); and the topic. Raises
    `ValueError` with `key: what is wrong` for each fault. Paths are absolute."""

    topic: str
    """The app's bundle id; the suffix of a push type is added when a push has one."""
    key_file: str = ""
    """The token signing key, a .p8 file."""
    key_id: str = ""
    """The key's id: 10 characters."""
    team_id: str = ""
    """The developer team's id: 10 characters."""
    cert_file: str = ""
    """The client certificate, PEM or .p12, in place of a token key."""
    cert_key_file: str = ""
    """The certificate's private key (PEM), if `cert_file` does not contain it."""
    cert_password: str = ""
    """The password of the private key or of the .p12 file."""
    environment: Environment = "production"
    endpoint: str = ""
    """The URL of APNs; by default Apple's host of the environment."""
    broadcast_endpoint: str = ""
    """The URL for broadcasts; by default `endpoint`.

    The text of Apple's documentation says so, its samples name other hosts
    (https://developer.apple.com/documentation/usernotifications/sending-broadcast-push-notification-requests-to-apns).
    """
    channels_endpoint: str = ""
    """The URL for the management of broadcast channels; by default Apple's host of the environment."""
    ca_file: str = ""
    """Trust these certificate authorities (PEM) and no others: for a simulator or a proxy."""
    proxy: str = ""
    """The HTTP proxy, `http://user:password@host:port`. Empty: as the environment says; `none`: no proxy."""
    connections: Annotated[int, Meta(ge=1, le=100)] = 2
    """HTTP/2 connections to keep."""
    window: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Pushes in flight on one connection at most, also where APNs allows more."""

    def __post_init__(self) -> None:
        if faults := [*self._faults()]:
            raise ValueError(*faults)
        self._reach("endpoint", ENDPOINTS[self.environment])
        self._reach("broadcast_endpoint", self.endpoint)
        self._reach("channels_endpoint", CHANNELS_ENDPOINTS[self.environment])

    def _faults(self) -> Iterator[str]:
        if not self.topic:
            yield "topic: missing, expected the app's bundle id"
        if not self.topic.isascii() or not self.topic.isprintable() or " " in self.topic:
            yield "topic: expected a bundle id of ASCII letters, digits, `.` and `-`"
        if self.cert_file and self.key_file:
            yield "cert_file: give either a token key (`key_file`) or a certificate, not both"
        if not self.cert_file and not self.key_file:
            yield "key_file: missing; either `key_file`, `key_id` and `team_id`, or `cert_file` must be given"
        if self.key_file:
            for name in ("key_id", "team_id"):
                value = getattr(self, name)
                if not value and not self.cert_file:
                    yield f"{name}: missing; a token key needs it beside `key_file`"
                if value and not (value.isascii() and value.isalnum()):
                    yield f"{name}: expected letters and digits as Apple's developer pages show them"
        if fault := proxy_fault(self.proxy):
            yield f"proxy: {fault}"
        for name in ("endpoint", "broadcast_endpoint", "channels_endpoint"):
            if (url := getattr(self, name)) and (fault := endpoint_fault(url)):
                yield f"{name}: {fault}"

    def _reach(self, name: str, default: str) -> None:
        """Put the default where an endpoint is left out."""
        force_setattr(self, name, origin(getattr(self, name) or default))

    def __repr__(self) -> str:
        return f"Config(topic={self.topic!r}, endpoint={self.endpoint!r})"  # The password stays out.


class SandboxConfig(Config, frozen=True, kw_only=True, forbid_unknown_fields=True, repr_omit_defaults=True):
    """`[apps.NAME.apns_sandbox]`: the app's account in the other environment, where it needs both at once."""

    environment: Literal["sandbox"] = "sandbox"

    __repr__ = Config.__repr__


DEFAULTS: Final = Defaults(server_error=900.0)
"""Apple: "retry after 15 minutes"
(https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns). It names no age
of tokens: APNs reports dead ones by 410, and a device that is merely quiet is a good one."""
MORE: Final = {"apns_sandbox": SandboxConfig}
"""Further accounts that an app may have here, by the names of their routes."""


def environment(config: Config) -> Environment:
    """Return the environment of the tokens that it can send to:

    Apple gives others to apps that are still being built.
    """
    return config.environment
