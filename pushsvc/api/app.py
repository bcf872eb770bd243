"""The API of the service: the calls of the route table, described by its OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import msgspec

from . import docs, openapi
from .config import ApiApp
from .http.dispatch import CallDispatcher
from .ports import ApiPorts
from .routes import CALLS


def build_app(ports: ApiPorts, apps: Mapping[str, ApiApp], *, public: bool = True) -> CallDispatcher:
    """Return the HTTP API of these apps. `public`: figures and details of the service need no key."""
    description = openapi.build(addresses=ports.addresses, config=ports.config)
    ports = replace(ports, openapi=msgspec.json.encode(description), page=docs.render(description).encode())
    return CallDispatcher(ports, CALLS, apps, public=public)


def reload_app(app: CallDispatcher, apps: Mapping[str, ApiApp], *, public: bool) -> None:
    """Serve these apps from the next request on, including requests on open connections."""
    app.serve(apps, public=public)
