"""The route table: every call of the API. The rows are defined with their handlers."""

from __future__ import annotations

import re
from typing import Final

from ..errors import NotFound, Unavailable
from ..problems import InternalError
from . import meta
from .admin.routes import CALLS as ADMIN
from .answers import Health
from .call import Answer, Call, Handler, rows
from .channels.routes import CALLS as CHANNELS
from .console.routes import CALLS as CONSOLE
from .devices.routes import CALLS as DEVICES
from .http.params import PathParam
from .letters.routes import CALLS as LETTERS
from .live.routes import CALLS as LIVE
from .pushes.routes import CALLS as PUSHES


def _asset(
    name: str, path: str, does: Handler, summary: str, *, media: str = "text/javascript", in_document: bool = True
) -> Call:
    """Return the row of a file that browsers keep."""
    found = Answer(200, "The module.", media=media, no_store=False)
    known = Answer(304, "The caller has it already.", media=media, no_store=False)
    return Call(
        name, "GET", path, does, summary, found, (known,), headers=(meta.IF_NONE_MATCH,), in_document=in_document
    )


_row: Final = rows()

_SERVICE: Final = (
    _row(
        *("GET /healthz", "get_healthz", meta.get_healthz),
        "Check that the process is alive.",
        Answer(200, "The process is alive.", Health),
    ),
    _row(
        *("GET /readyz", "get_readyz", meta.get_readyz),
        "Check that pushes are accepted.",
        Answer(200, "Pushes are accepted.", Health),
        description="With 503, `errors` names each part that is not ready and the reason. `held` names routes that "
        "currently do not send: their deliveries wait. `frozen` names routes that currently prune no devices, because "
        "too many of their answers are bad. `unserved` names routes and parts that no running process serves. `full` "
        "names the queue, or the apps, whose pushes are refused because too many deliveries wait. If the API listens "
        "on more than the loopback interface, or a proxy has passed the request on, "
        "everything except `status` needs a key with the scope `admin`. While Redis is away, a key that it keeps is "
        "taken for what it was when last looked up, for an hour at most; one that was not looked up before only gets "
        "the name of the part that is away.",
        raises=(Unavailable, InternalError),
        scopes=("admin",),
        others="answered",
    ),
    _row(
        *("GET /metrics", "get_metrics", meta.get_metrics),
        "Get metrics in the Prometheus text format.",
        Answer(200, "The metrics.", media="text/plain", no_store=False),
        description="If the API listens on more than the loopback interface, or a proxy has passed the request on, a "
        "key with the scope `admin` is needed. While Redis is away, a key that it keeps is taken for what it was when "
        "last looked up, for an hour at most.",
        scopes=("admin",),
        others="local",
    ),
    _row(
        *("GET /openapi.json", "get_openapi", meta.get_openapi),
        "Get this document.",
        Answer(200, "The OpenAPI 3.1 document.", no_store=False),
    ),
    _row(
        *("GET /docs", "get_docs", meta.get_docs),
        "Get this document as a web page.",
        Answer(200, "An HTML page.", media="text/html", no_store=False),
    ),
    _asset(
        *("get_live_client", "/clients/pushsvc-live.js", meta.get_live_client),
        "Get the receiving side of the live channel, as a JavaScript module for apps.",
    ),
    _asset(
        *("get_docs_script", "/docs/page.js", meta.get_docs_script),
        "Get the script of the documentation.",
        in_document=False,
    ),
    _asset(
        *("get_docs_style", "/docs/page.css", meta.get_docs_style),
        "Get the style of the documentation.",
        media="text/css",
        in_document=False,
    ),
)

_GUIDE: Final = tuple(
    Call(
        name,
        "GET",
        path,
        meta.get_guide,
        "Get a page of the guide.",
        Answer(200, "An HTML page.", media="text/html", no_store=False),
        names=tuple(PathParam(part, "The place of the page in the guide.") for part in re.findall(r"{(\w+)}", path)),
        raises=(NotFound,),
        in_document=False,
    )
    for name, path in (
        ("get_guide", "/docs/guide"),
        ("get_guide_folder", "/docs/guide/"),
        ("get_guide_index", "/docs/guide/{page}"),
        ("get_guide_page", "/docs/guide/{folder}/{page}"),
    )
)

CALLS: Final[tuple[Call, ...]] = (*PUSHES, *LETTERS, *DEVICES, *CHANNELS, *LIVE, *ADMIN, *CONSOLE, *_SERVICE, *_GUIDE)
"""Every call of the API."""
