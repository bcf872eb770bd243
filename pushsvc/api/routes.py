"""The route table: every call of the API. The rows are defined with their handlers."""

from __future__ import annotations

from typing import Final

from ..errors import NotFound, Unavailable
from ..problems import InternalError
from .admin.routes import CALLS as ADMIN
from .answers import Health
from .call import Answer, Call
from .channels.routes import CALLS as CHANNELS
from .console.routes import CALLS as CONSOLE
from .devices.routes import CALLS as DEVICES
from .http.params import PathParam
from .letters.routes import CALLS as LETTERS
from .live.routes import CALLS as LIVE
from .meta import IF_NONE_MATCH, get_docs, get_guide, get_healthz, get_live_client, get_metrics, get_openapi, get_readyz
from .pushes.routes import CALLS as PUSHES

_SERVICE: Final = (
    Call(
        "get_healthz",
        "GET",
        "/healthz",
        get_healthz,
        "Check that the process is alive.",
        Answer(200, "The process is alive.", Health),
    ),
    Call(
        "get_readyz",
        "GET",
        "/readyz",
        get_readyz,
        "Check that pushes are accepted.",
        Answer(200, "Pushes are accepted.", Health),
        description="With 503, `errors` names each part that is not ready and the reason. `held` names routes that "
        "currently do not send: their deliveries wait. `frozen` names routes that currently prune no devices, because "
        "too many of their answers are bad. `unserved` names routes and parts that no running process serves. `full` "
        "names the queue, or the apps, whose pushes are refused because too many deliveries wait. If the API listens "
        "on more than the loopback interface, "
        "everything except `status` needs a key with the scope `admin`.",
        raises=(Unavailable, InternalError),
        scopes=("admin",),
        others="answered",
    ),
    Call(
        "get_metrics",
        "GET",
        "/metrics",
        get_metrics,
        "Get metrics in the Prometheus text format.",
        Answer(200, "The metrics.", media="text/plain", no_store=False),
        description="If the API listens on more than the loopback interface, a key with the scope `admin` is needed.",
        scopes=("admin",),
        others="local",
    ),
    Call(
        "get_openapi",
        "GET",
        "/openapi.json",
        get_openapi,
        "Get this document.",
        Answer(200, "The OpenAPI 3.1 document.", no_store=False),
    ),
    Call(
        "get_docs",
        "GET",
        "/docs",
        get_docs,
        "Get this document as a web page.",
        Answer(200, "An HTML page.", media="text/html", no_store=False),
    ),
    Call(
        "get_live_client",
        "GET",
        "/clients/pushsvc-live.js",
        get_live_client,
        "Get the receiving side of the live channel, as a JavaScript module for apps.",
        Answer(200, "The module.", media="text/javascript", no_store=False),
        (Answer(304, "The caller has it already.", media="text/javascript", no_store=False),),
        headers=(IF_NONE_MATCH,),
    ),
)

_GUIDE: Final = tuple(
    Call(
        name,
        "GET",
        "/".join(("/docs/guide", *(f"{{{part}}}" for part in parts))),
        get_guide,
        "Get a page of the guide.",
        Answer(200, "An HTML page.", media="text/html", no_store=False),
        names=tuple(PathParam(part, "The place of the page in the guide.", {"type": "string"}) for part in parts),
        raises=(NotFound,),
        in_document=False,
    )
    for name, parts in (("get_guide", ()), ("get_guide_index", ("page",)), ("get_guide_page", ("folder", "page")))
)

CALLS: Final[tuple[Call, ...]] = (*PUSHES, *LETTERS, *DEVICES, *CHANNELS, *LIVE, *ADMIN, *CONSOLE, *_SERVICE, *_GUIDE)
"""Every call of the API."""
