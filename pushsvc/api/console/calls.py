"""The handlers of the console: its page and files, its sessions, and the stream of its figures."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from ... import __version__
from ...errors import Forbidden, NotFound
from ...model.access import Scope
from ...model.documents import Time
from ...model.instants import instant
from ..http.exchange import NO_CONTENT, Reply, Request
from ..http.params import HeaderParam
from ..ports import ApiPorts
from .files import Folder
from .session import COOKIE, LIFE, sign

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from elsewhere, nothing written into the page is run, and no page of others frames it."""

_FOLDER: Final = Folder()
_PAGE: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_STATIC: Final = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}

ORIGIN: Final = HeaderParam("Origin", "The origin of the page that asks.", {"type": "string"}, ", ".join)
CODINGS: Final = HeaderParam("Accept-Encoding", "The codings that the client reads.", {"type": "string"}, ", ".join)


class SessionDocument(Struct, frozen=True):
    """A session of the console."""

    app: str
    key: Annotated[str, Meta(description="The name of the key that it was begun with.")]
    scopes: tuple[Scope, ...]
    live: Annotated[bool, Meta(description="Whether the app has the live channel.")]
    platforms: list[str]
    at: Time
    version: str
    state: Literal["open"] = "open"


async def get_root(_: ApiPorts, __: Request) -> Reply:
    """Lead to the console."""
    return Reply(status=303, headers={"Location": "/console"})


async def get_page(_: ApiPorts, __: Request) -> Reply:
    """Return the page, which is the same for every address: what it shows, it makes of the address itself."""
    return Reply((await asyncio.to_thread(_FOLDER.read)).shell, headers=_PAGE)


async def get_file(_: ApiPorts, request: Request) -> Reply:
    """Return a file of the present version."""
    params, files = request.params, await asyncio.to_thread(lambda: _FOLDER.last)
    name = "/".join(params[part] for part in ("folder", "file") if part in params)
    file = files.by_path.get(name)
    if params["version"] != files.version or file is None:
        raise NotFound("The console has no such file; it may be of another version: load the page again.")
    headers = {**_STATIC, "Content-Type": file.media}
    if "gzip" in params.get(CODINGS.name, ""):
        packed = await asyncio.to_thread(lambda: file.packed)
        return Reply(packed, headers={**headers, "Content-Encoding": "gzip"})
    return Reply(file.body, headers=headers)


async def post_session(ports: ApiPorts, request: Request) -> Reply:
    """Begin a session of the key that the call is made with. Another session does not lengthen it."""
    if request.session:
        raise Forbidden("A session is begun with an API key, in the header `Authorization: Bearer <key>`.")
    value = sign(ports.session_secret, request.key.sha256.lower(), request.now // 1000 + LIFE)
    return Reply(_document(request), headers={"Set-Cookie": _cookie(request, value, LIFE)})


async def get_session(_: ApiPorts, request: Request) -> Reply:
    """Return whose session it is."""
    return Reply(_document(request))


async def delete_session(_: ApiPorts, request: Request) -> Reply:
    """End the session in this browser."""
    return Reply(status=NO_CONTENT.status, headers={"Set-Cookie": _cookie(request, "", 0)})


def _document(request: Request) -> SessionDocument:
    app, key = request.app, request.key
    return SessionDocument(
        app=app.name,
        key=key.name,
        scopes=key.scopes,
        live=app.live is not None,
        platforms=sorted(app.rules.providers),
        at=instant(request.now),
        version=__version__,
    )


def _cookie(request: Request, value: str, seconds: int) -> str:
    """Return the cookie. It is `Secure` where the browser itself reports TLS, also to a proxy before us."""
    secure = "; Secure" if urlsplit(request.params.get(ORIGIN.name, "")).scheme == "https" else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
