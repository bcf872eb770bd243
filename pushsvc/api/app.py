"""The API of the service: the calls of the route table, described by its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import msgspec

from ..model.address import Addresses
from . import docs, openapi
from .config import ApiApp, ApiConfig, Keyless
from .http.dispatch import CallDispatcher
from .ports import ApiPorts
from .routes import CALLS


def build_app(ports: ApiPorts, apps: Mapping[str, ApiApp], *, keyless: Keyless = "all") -> CallDispatcher:
    """Return the HTTP API of these apps. `keyless` requests need no key for figures and details of the service."""
    document, page = _described(ports.addresses, ports.config)
    return CallDispatcher(replace(ports, openapi=document, page=page), CALLS, apps, keyless=keyless)


@cache
def _described(addresses: Addresses, config: ApiConfig) -> tuple[bytes, bytes]:
    """Return the OpenAPI document and its page."""
    description = openapi.build(addresses=addresses, config=config)
    return msgspec.json.encode(description), docs.render(description).encode()
