"""The rows of the console's calls, which are not in the OpenAPI document: they are for its own pages."""

from __future__ import annotations

from functools import partial
from typing import Final

from ...errors import NotFound
from ..call import Answer, Call
from ..http.params import PathParam
from .calls import (
    CODINGS,
    ORIGIN,
    SessionDocument,
    delete_session,
    get_file,
    get_page,
    get_root,
    get_session,
    post_session,
)
from .events import get_stream
from .files import STATIC

_call: Final = partial(Call, in_document=False)
_admin: Final = partial(_call, scopes=("admin",))
_page: Final = partial(_call, method="GET", does=get_page, summary="Get the console.")
_file: Final = partial(_call, method="GET", does=get_file, summary="Get a file of the console.", headers=(CODINGS,))

_HTML: Final = Answer(200, "The page.", media="text/html")
_FILE: Final = Answer(200, "The file.", media="text/javascript", no_store=False)


def _named(name: str, description: str) -> PathParam:
    return PathParam(name, description, {"type": "string"})


_VERSION: Final = _named("version", "The hash of all files.")
_FOLDER: Final = _named("folder", "The folder of the file.")
_FILE_NAME: Final = _named("file", "The name of the file.")
_PAGE: Final = _named("page", "The page.")
_ITEM: Final = _named("item", "What the page shows.")

CALLS: Final = (
    _call(
        "get_root",
        "GET",
        "/",
        get_root,
        "Get to the console.",
        Answer(303, "The place of the console.", media="text/plain", no_store=False),
    ),
    _admin(
        "post_session",
        "POST",
        "/console/session",
        post_session,
        "Begin a session of the console.",
        Answer(200, "The session.", SessionDocument),
        headers=(ORIGIN,),
    ),
    _admin(
        "get_session",
        "GET",
        "/console/session",
        get_session,
        "Get the session.",
        Answer(200, "The session.", SessionDocument),
    ),
    _admin(
        "delete_session",
        "DELETE",
        "/console/session",
        delete_session,
        "End the session.",
        Answer(204, "The session has ended in this browser."),
        headers=(ORIGIN,),
    ),
    _admin(
        "get_stream",
        "GET",
        "/console/stream",
        get_stream,
        "Get a continuous stream of the figures of the app.",
        Answer(200, "The figures, as server-sent events.", media="text/event-stream"),
    ),
    _file(
        name="get_console_file",
        path=STATIC + "/{version}/{file}",
        answer=_FILE,
        names=(_VERSION, _FILE_NAME),
        raises=(NotFound,),
    ),
    _file(
        name="get_console_folder_file",
        path=STATIC + "/{version}/{folder}/{file}",
        answer=_FILE,
        names=(_VERSION, _FOLDER, _FILE_NAME),
        raises=(NotFound,),
    ),
    _page(name="get_console", path="/console", answer=_HTML),
    _page(name="get_console_page", path="/console/{page}", answer=_HTML, names=(_PAGE,)),
    _page(name="get_console_item", path="/console/{page}/{item}", answer=_HTML, names=(_PAGE, _ITEM)),
)
