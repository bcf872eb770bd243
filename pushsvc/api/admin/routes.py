"""The rows of the calls of administration."""

from __future__ import annotations

from functools import partial
from typing import Final

from ...errors import Conflict, NotFound
from ...model.push import LANES
from ...ports.admin import (
    CheckAnswer,
    CleanupAnswer,
    CleanupCount,
    Redelivery,
    Stats,
    WebhookStates,
    WebhookTest,
)
from ..call import CURSOR, LIMIT, Answer, Call, Document
from ..http.params import PathParam, QueryParam
from .calls import (
    delete_key,
    get_check,
    get_keys,
    get_pushes,
    get_schedules,
    get_stats,
    get_webhooks,
    post_cleanup,
    post_key,
    redeliver,
    resume_webhooks,
    test_webhook,
)
from .document import (
    CleanupDocument,
    KeyDocument,
    KeyList,
    NewKey,
    PushPage,
    SpanDocument,
    read_cleanup,
    read_key,
    read_span,
)

_STATES: Final = ("scheduled", "expanding", "sending", "done", "cancelled")
_call: Final = partial(Call, scopes=("admin",))

CALLS: Final = (
    _call(
        "get_admin_stats",
        "GET",
        "/v1/admin/stats",
        get_stats,
        "Get the state of the app: a verdict with its causes, lanes, routes, processes and rates.",
        Answer(200, "The state of the app.", Stats),
    ),
    _call(
        "get_admin_pushes",
        "GET",
        "/v1/admin/pushes",
        get_pushes,
        "List the pushes of the app, the newest first.",
        Answer(200, "A page of pushes.", PushPage),
        description="Pushes are listed as long as their statuses are kept, and at most the last 100,000 writes of the "
        "API, each of one push or of several that arrived together.",
        params=(
            QueryParam("state", "Only pushes in this state.", options=_STATES),
            QueryParam("lane", "Only pushes of this lane.", options=LANES),
            QueryParam("collapse", "Only pushes with this `collapse`."),
            QueryParam("key", "Only pushes that were posted with the API key of this name."),
            QueryParam("since", "Only pushes that were accepted at this instant (RFC 3339) or later."),
            QueryParam("until", "Only pushes that were accepted before this instant (RFC 3339)."),
            QueryParam("app", "The app of the key; another one is refused with 403."),
            CURSOR,
            LIMIT,
        ),
    ),
    _call(
        "get_admin_schedules",
        "GET",
        "/v1/admin/schedules",
        get_schedules,
        "List the pushes that wait for their time, the next first.",
        Answer(200, "A page of pushes.", PushPage),
        description="`DELETE /v1/push/{id}` cancels one.",
        params=(CURSOR, LIMIT),
    ),
    _call(
        "get_admin_keys",
        "GET",
        "/v1/admin/keys",
        get_keys,
        "List the API keys of the app, without their texts.",
        Answer(200, "The keys.", KeyList),
    ),
    _call(
        "post_admin_key",
        "POST",
        "/v1/admin/keys",
        Document(KeyDocument, lambda body, _: read_key(body), post_key),
        "Make an API key.",
        Answer(201, "The key. Its text is not shown again.", NewKey, headers=(("Location", "The path of the key."),)),
        description="Only its SHA-256 is kept. 409 means that the app has a key of this name.",
        raises=(Conflict,),
    ),
    _call(
        "delete_admin_key",
        "DELETE",
        "/v1/admin/keys/{name}",
        delete_key,
        "Revoke an API key.",
        Answer(204, "The key is revoked; running servers stop accepting it within seconds."),
        description="409 means that the key is in the configuration, or is the key of the call.",
        names=(PathParam("name", "The name of the key.", {"type": "string"}),),
        raises=(NotFound, Conflict),
    ),
    _call(
        "get_admin_webhooks",
        "GET",
        "/v1/admin/webhooks",
        get_webhooks,
        "Get the state of the app's webhooks, with their last calls.",
        Answer(200, "The webhooks, one for each kind of events; none where the app has none.", WebhookStates),
    ),
    _call(
        "post_admin_webhook_test",
        "POST",
        "/v1/admin/webhooks/test",
        test_webhook,
        "Call the webhook without events.",
        Answer(200, "The result of the call.", WebhookTest),
        raises=(Conflict,),
    ),
    _call(
        "post_admin_webhook_resume",
        "POST",
        "/v1/admin/webhooks/resume",
        resume_webhooks,
        "Continue the webhooks now, whatever their receiver has answered.",
        Answer(200, "The state of the webhooks.", WebhookStates),
        raises=(Conflict,),
    ),
    _call(
        "post_admin_webhook_redeliver",
        "POST",
        "/v1/admin/webhooks/redeliver",
        Document(SpanDocument, lambda body, _: read_span(body), redeliver, optional=True),
        "Deliver the batches again that were given up, before new events.",
        Answer(202, "How many batches, and events in them, will be delivered again.", Redelivery),
        description="Each batch is tried once by `pushsvc jobs`; one that fails again is kept.",
        raises=(Conflict,),
    ),
    _call(
        "post_admin_cleanup",
        "POST",
        "/v1/admin/cleanup",
        Document(CleanupDocument, lambda body, _: read_cleanup(body), post_cleanup, optional=True),
        "Remove data that is no longer needed.",
        Answer(202, "The cleanup is requested; `pushsvc jobs` runs it.", CleanupAnswer),
        (Answer(200, "With `dry_run`: what would be removed of the app.", CleanupCount),),
        description="`cleanup` of `GET /v1/admin/stats` shows its progress. A dry run counts for 5 seconds at most.",
    ),
    _call(
        "get_admin_check",
        "GET",
        "/v1/admin/check",
        get_check,
        "Check configuration, store and credentials, with the fix beside each fault.",
        Answer(200, "The findings.", CheckAnswer),
    ),
)
