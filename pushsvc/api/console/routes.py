"""The rows of the console's calls, which are not in the OpenAPI document: they are for its own pages."""

from __future__ import annotations

from typing import Final

from ...errors import NotFound
from ..call import Answer, rows
from ..http.params import PathParam
from . import calls
from .events import get_stream
from .files import STATIC

_row: Final = rows(in_document=False)
_session: Final = rows("admin", under="/console/", in_document=False)
_file: Final = rows(under=STATIC + "/{version}/", in_document=False, headers=(calls.CODINGS,), raises=(NotFound,))

_SESSION: Final = Answer(200, "The session.", calls.SessionDocument)
_PLACE: Final = Answer(303, "The place of the console.", media="text/plain", no_store=False)
_HTML: Final = Answer(200, "The page.", media="text/html")
_FILE: Final = Answer(200, "The file.", media="text/javascript", no_store=False)

_VERSION: Final = PathParam("version", "The hash of all files.")
_FOLDER: Final = PathParam("folder", "The folder of the file.")
_FILE_NAME: Final = PathParam("file", "The name of the file.")
_PAGE: Final = PathParam("page", "The page.")
_ITEM: Final = PathParam("item", "What the page shows.")

CALLS: Final = (
    _row("GET /", "get_root", calls.get_root, "Get to the console.", _PLACE),
    _row("GET /console/", "get_console_folder", calls.get_root, "Get to the console.", _PLACE),
    _session(
        *("POST session", "post_session", calls.post_session),
        *("Begin a session of the console.", _SESSION),
        headers=(calls.ORIGIN,),
    ),
    _session("GET session", "get_session", calls.get_session, "Get the session.", _SESSION),
    _session(
        *("DELETE session", "delete_session", calls.delete_session),
        *("End the session.", Answer(204, "The session has ended in this browser.")),
        headers=(calls.ORIGIN,),
    ),
    _session(
        *("GET stream", "get_stream", get_stream),
        "Get a continuous stream of the figures of the app.",
        Answer(200, "The figures, as server-sent events.", media="text/event-stream"),
    ),
    _file(
        *("GET {file}", "get_console_file", calls.get_file),
        *("Get a file of the console.", _FILE),
        names=(_VERSION, _FILE_NAME),
    ),
    _file(
        *("GET {folder}/{file}", "get_console_folder_file", calls.get_file),
        *("Get a file of the console.", _FILE),
        names=(_VERSION, _FOLDER, _FILE_NAME),
    ),
    _row("GET /console", "get_console", calls.get_page, "Get the console.", _HTML),
    _row("GET /console/{page}", "get_console_page", calls.get_page, "Get the console.", _HTML, names=(_PAGE,)),
    _row(
        "GET /console/{page}/{item}",
        "get_console_item",
        calls.get_page,
        "Get the console.",
        _HTML,
        names=(_PAGE, _ITEM),
    ),
)
