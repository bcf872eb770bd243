"""Where the API is and which key it takes: from options, the environment and the configuration."""

from __future__ import annotations

import os
import re
from typing import Annotated

import typer
from msgspec import Struct

from .output import Missing
from .state import State

Url = Annotated[
    str,
    typer.Option("--url", envvar="PUSHSVC_URL", help="The URL of the API; by default as configured.", metavar="URL"),
]
Key = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="PUSHSVC_KEY",
        help="The API key. Prefer the environment: other users can read a command line.",
        metavar="KEY",
        show_envvar=True,
    ),
]
App = Annotated[str, typer.Option("--app", help="Take the key of this app, from PUSHSVC_KEY_APP.", metavar="APP")]


class Access(Struct, frozen=True):
    """The URL of the API and a key for it. The `repr` omits the key."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"Access({self.url!r})"


def access(state: State, url: str, key: str, app: str) -> Access:
    """Return the URL and key from the options and the environment. Ends with wrong usage (2) if there is no key."""
    if app:
        missing = f"No API key for {app!r}: set {key_variable(app)} or PUSHSVC_KEY, or give --key"
    else:
        missing = "No API key: set PUSHSVC_KEY, or give --key"
    key = key_of(key, app)
    if not key:
        raise Missing(f"{missing}. `pushsvc keys new` makes one; `pushsvc up --simulator` keeps one in its folder.")
    return checked(url or state.server_url(), key)


def checked(url: str, key: str) -> Access:
    """Return a URL and a key. Ends with wrong usage (2) where one of them cannot be one."""
    if not key.isascii() or not key.isprintable():
        raise typer.BadParameter("The API key holds characters that no key has: was it copied whole?")
    if not url.startswith(("http://", "https://")) or url.endswith("://"):
        raise typer.BadParameter(f"{url!r} is not a URL: it begins with http:// or https:// and names a host")
    return Access(url.rstrip("/"), key)


def key_of(key: str, app: str) -> str:
    """Return the key for an app: from its environment variable, or else the given one."""
    return ((app and os.environ.get(key_variable(app))) or key).strip()


def key_variable(app: str) -> str:
    """Return the environment variable with the key for an app, or for any app where `app` is empty."""
    return "PUSHSVC_KEY" + (app and "_" + re.sub(r"[^A-Z0-9]", "_", app.upper()))
