"""`[apps.NAME.fcm]`: the Firebase project of an app."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import force_setattr

from ...model.defaults import Defaults
from ...model.rates import parse_rate
from ...net.proxy import proxy_fault
from ..endpoint import endpoint_fault, origin

ENDPOINT: Final = "https://fcm.googleapis.com"

DEFAULTS: Final = Defaults(server_error=10.0, throttled=60.0, stale=270 * 86400.0, unanswered=True)
"""Google: "Wait at least 10 seconds before retrying a failed request", after a 429 "default to 60 seconds"
(https://firebase.google.com/docs/cloud-messaging/scale-fcm); "when stale tokens reach 270 days of inactivity, FCM
considers them expired tokens" (https://firebase.google.com/docs/cloud-messaging/manage-tokens)."""

PROJECT: Final = re.compile(r"[A-Za-z0-9.:-]{1,100}")
"""Project ids, domain-scoped ones (`example.com:shop`) and project numbers."""


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service account that may send for the project. Raises `ValueError` with `key: what is wrong` for each fault."""

    service_account_file: str
    """The service account's JSON file. Its own `token_uri` is honoured."""
    project_id: str = ""
    """The Firebase project; by default the one that the file names."""
    endpoint: str = ENDPOINT
    """The URL of FCM."""
    ca_file: str = ""
    """Trust these certificate authorities (PEM) and no others, for FCM and for the token endpoint."""
    proxy: str = ""
    """The HTTP proxy, `http://user:password@host:port`. Empty: as the environment says; `none`: no proxy."""
    connections: Annotated[int, Meta(ge=1, le=100)] = 2
    """HTTP/2 connections to keep."""
    window: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Messages in flight on one connection at most, also where FCM allows more."""
    quota: str = "auto"
    """The rate at which all apps of the project together may send, or `0` for no limit. `auto`: Google's own default of
    600000/min at Google's endpoint, and no limit at another, which is a simulator or a proxy."""
    collapsible: str = "20/h"
    """The rate of messages with a collapse key and nothing to show, to one device."""

    def __post_init__(self) -> None:
        if not self.endpoint:
            force_setattr(self, "endpoint", ENDPOINT)
        if faults := [*self._faults()]:
            raise ValueError(*faults)
        force_setattr(self, "endpoint", origin(self.endpoint))

    def _faults(self) -> Iterator[str]:
        if not self.service_account_file:
            yield "service_account_file: missing, expected the service account's JSON file"
        if self.project_id and PROJECT.fullmatch(self.project_id) is None:
            yield "project_id: expected the id or number of a Firebase project"
        if fault := proxy_fault(self.proxy):
            yield f"proxy: {fault}"
        for name in ("quota", "collapsible"):
            text = getattr(self, name)
            if name == "quota" and text == "auto":
                continue
            try:
                parse_rate(text)
            except ValueError as error:
                yield f"{name}: {error}{', or `auto`' if name == 'quota' else ''}"
        if fault := endpoint_fault(self.endpoint):
            yield f"endpoint: {fault}"

    def __repr__(self) -> str:
        return f"Config(project_id={self.project_id!r}, endpoint={self.endpoint!r})"  # A proxy's password stays out.
