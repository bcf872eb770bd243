"""The rows of the calls of administration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ...bodies import T, read_document
from ...errors import Conflict, NotFound
from ...model.push import LANES
from ...ports import admin
from ...rules.where import MAX_LENGTH
from ..call import CURSOR, LIMIT, Answer, Document, rows
from ..devices.importing import MOST, ImportDocument, Imported, read_import
from ..devices.routes import DEVICE
from ..http.exchange import Reply, Request
from ..http.params import PathParam, QueryParam
from ..letters.routes import FILTERS
from ..ports import ApiPorts
from ..pushes.document import PushDocument, read
from ..pushes.routes import PUSH_ID
from . import calls, devices, document, pushes

_STATES: Final = ("scheduled", "expanding", "sending", "done", "cancelled")
_WHERE: Final = QueryParam("where", "The expression, as in `to.where` of a push.", length=MAX_LENGTH)
_row: Final = rows("admin", under="/v1/admin/")


def _plain(kind: type[T], handle: Callable[[ApiPorts, Request, T], Awaitable[Reply]]) -> Document[T]:
    """Return a body that its struct describes completely."""
    return Document(kind, lambda body, _: read_document(body, kind), handle)


CALLS: Final = (
    _row(
        *("GET stats", "get_admin_stats", calls.get_stats),
        "Get the state of the app: a verdict with its causes, lanes, routes, processes and rates.",
        Answer(200, "The state of the app.", admin.AppStats),
    ),
    _row(
        *("GET pushes", "get_admin_pushes", calls.get_pushes),
        "List the pushes of the app, the newest first.",
        Answer(200, "A page of pushes.", document.PushPage),
        description="Pushes are listed from their acceptance on for as long as a status is kept, and at most the last "
        "100,000 writes of the API, each of one push or of up to 16 that arrived together. A call examines 20,000 "
        "pushes at most, and with `state` the statuses of 1,000.",
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
    _row(
        *("GET pushes/{id}", "get_admin_push", pushes.get_admin_push),
        "Get a push with its times, what each provider was sent, and a copy to send again.",
        Answer(200, "The push.", pushes.AdminPush),
        description="The content of a push is kept until its last delivery has ended. After that it is kept with its "
        "dead letters, and in the live channel for `live.history_age` at most.",
        names=(PUSH_ID,),
        raises=(NotFound,),
    ),
    _row(
        *("GET schedules", "get_admin_schedules", calls.get_schedules),
        "List the pushes that wait for their time, the next first.",
        Answer(200, "A page of pushes.", document.PushPage),
        description="`DELETE /v1/push/{id}` cancels one.",
        params=(CURSOR, LIMIT),
    ),
    _row(
        *("GET keys", "get_admin_keys", calls.get_keys),
        "List the API keys of the app, without their texts.",
        Answer(200, "The keys.", document.KeyList),
    ),
    _row(
        *(
            "POST keys",
            "post_admin_key",
            Document(document.KeyDocument, lambda body, _: document.read_key(body), calls.post_key),
        ),
        "Make an API key.",
        Answer(
            201,
            "The key. Its text is not shown again.",
            document.NewKey,
            headers=(("Location", "The path of the key."),),
        ),
        description="Only its SHA-256 is kept. 409 means that the app has a key of this name.",
        raises=(Conflict,),
    ),
    _row(
        *("DELETE keys/{name}", "delete_admin_key", calls.delete_key),
        "Revoke an API key.",
        Answer(204, "The key is revoked; running servers stop accepting it within seconds."),
        description="409 means that the key is in the configuration, or is the key of the call.",
        names=(PathParam("name", "The name of the key."),),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("GET webhooks", "get_admin_webhooks", calls.get_webhooks),
        "Get the state of the app's webhooks, with their last calls.",
        Answer(200, "The webhooks, one for each kind of events; none where the app has none.", admin.WebhookStates),
    ),
    _row(
        *("GET webhooks/failed", "get_admin_webhook_failed", calls.get_dead_batches),
        "List the batches of the webhooks that were given up.",
        Answer(200, "The batches.", admin.DeadBatches),
        params=(
            QueryParam("since", "Only batches whose last event was recorded at this instant (RFC 3339) or later."),
            QueryParam("until", "Only batches whose last event was recorded before this instant (RFC 3339)."),
        ),
    ),
    _row(
        *("POST webhooks/test", "post_admin_webhook_test", calls.test_webhook),
        "Call the webhook without events.",
        Answer(200, "The result of the call.", admin.WebhookTest),
        raises=(Conflict,),
    ),
    _row(
        *("POST webhooks/resume", "post_admin_webhook_resume", calls.resume_webhooks),
        "Resume the webhooks now, whatever their receiver answered.",
        Answer(200, "The state of the webhooks.", admin.WebhookStates),
        raises=(Conflict,),
    ),
    _row(
        *(
            "POST webhooks/redeliver",
            "post_admin_webhook_redeliver",
            Document(document.SpanDocument, lambda body, _: document.read_span(body), calls.redeliver, optional=True),
        ),
        "Redeliver the batches that were given up, before new events.",
        Answer(202, "How many batches, and events in them, will be delivered again.", admin.Redelivery),
        description="Each batch is tried once by `pushsvc jobs`; one that fails again is kept.",
        raises=(Conflict,),
    ),
    _row(
        *(
            "POST cleanup",
            "post_admin_cleanup",
            Document(
                document.CleanupDocument, lambda body, _: document.read_cleanup(body), calls.post_cleanup, optional=True
            ),
        ),
        "Remove data that is no longer needed.",
        Answer(202, "The cleanup is requested; `pushsvc jobs` runs it.", admin.CleanupAnswer),
        also=(Answer(200, "With `dry_run`: what would be removed of the app.", admin.CleanupCount),),
        description="`cleanup` of `GET /v1/admin/stats` shows its progress. A dry run counts for 5 seconds at most.",
    ),
    _row(
        *("GET check", "get_admin_check", calls.get_check),
        "Check configuration, store and credentials, with the fix beside each fault.",
        Answer(200, "The findings.", admin.CheckAnswer),
        description="With `online=true` each provider is asked whether it accepts the credential, and the webhook is "
        "called without events.",
        params=(QueryParam("online", "Whether the providers and the webhook are asked.", options=("true", "false")),),
    ),
    _row(
        *("GET rates", "get_admin_rates", calls.get_rates),
        "Get the counts of the last hours, in steps.",
        Answer(200, "The counts, by name, platform and lane.", admin.RateHistory),
        params=(
            QueryParam("span", "The seconds to look back.", least=60, most=86_400, default=3600),
            QueryParam("step", "The seconds of a step, in tens.", least=10, most=3600, default=60),
        ),
    ),
    _row(
        *(
            "POST preview",
            "post_admin_preview",
            Document(
                PushDocument, lambda body, request: read(body, request.app.rules, request.now), calls.post_preview
            ),
        ),
        "Show what each provider would be sent for a push, without sending it.",
        Answer(200, "The requests, without credentials.", document.PushPreview),
        description="The push is validated as by `POST /v1/push`. An audience is counted for 2 seconds at most.",
    ),
    _row(
        *("GET failed", "get_admin_failed", calls.get_failed_groups),
        "Count dead letters by platform and reason.",
        Answer(200, "The groups, the largest first.", document.FailedGroups),
        params=FILTERS,
    ),
    _row(
        *("GET feedback", "get_admin_feedback", calls.get_feedback_state),
        "Get the guards against mass pruning, and what was pruned in the last week.",
        Answer(200, "The guards by route, and counts by day.", admin.FeedbackState),
    ),
    _row(
        *("POST feedback/release", "post_admin_release", _plain(document.ReleaseDocument, calls.release_route)),
        "Let a route prune for a while, although too many of its answers are bad.",
        Answer(200, "The guards.", admin.FeedbackState),
        raises=(NotFound,),
    ),
    _row(
        *("POST feedback/keep", "post_admin_keep", _plain(document.KeepDocument, calls.keep_route)),
        "End the release of a route.",
        Answer(200, "The guards.", admin.FeedbackState),
        raises=(NotFound,),
    ),
    _row(
        *("GET devices", "get_admin_devices", devices.get_admin_devices),
        "Search devices by an expression.",
        Answer(200, "A page of devices, pruned ones too, without their tokens.", document.AdminDevicePage),
        params=(_WHERE, CURSOR, LIMIT),
    ),
    _row(
        *("GET devices/count", "count_admin_devices", devices.count_devices),
        "Count the active devices for which an expression is true.",
        Answer(200, "The number of devices that were counted within 2 seconds.", document.DeviceCount),
        params=(_WHERE,),
    ),
    _row(
        *(
            "POST devices/import",
            "import_admin_devices",
            Document(ImportDocument, lambda body, _: read_import(body), devices.post_import),
        ),
        "Write devices as they are, each in place of the one with its id or token.",
        Answer(200, "The result for each device.", Imported),
        description=f"Up to {MOST:,} devices, each as in a line of `pushsvc devices export`: the document of "
        "`PUT /v1/devices/{device_id}` with `id` and, where they are known, `registered_at`, `last_seen_at`, `topics`, "
        "`strikes`, `struck_at`, and of a pruned one `state`, `pruned_at` and `pruned_for`. One that is not valid is "
        "refused alone.",
    ),
    _row(
        *("GET devices/{device_id}", "get_admin_device", devices.get_admin_device),
        "Get a device without its token.",
        Answer(200, "The device.", document.AdminDevice),
        names=(DEVICE,),
        raises=(NotFound,),
    ),
    _row(
        *("GET devices/{device_id}/pushes", "get_admin_device_pushes", devices.get_admin_device_pushes),
        "List how the last pushes to a device have ended.",
        Answer(200, "What was found among the pushes that were examined.", document.DevicePushPage),
        description="No list by device is kept. A call examines up to 5,000 pushes of the app, the latest first, and "
        "finds deliveries to the device's id or its present token. A push with more than 1,000 deliveries has no row "
        "of each and is left out; one that still waits is left out until it ends.",
        names=(DEVICE,),
        params=(CURSOR, LIMIT),
        raises=(NotFound,),
    ),
    _row(
        *("POST devices/{device_id}/restore", "restore_admin_device", devices.restore_device),
        "Restore a pruned device.",
        Answer(200, "The device.", document.AdminDevice),
        names=(DEVICE,),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("GET live", "get_admin_live", devices.get_admin_live),
        "Get the live connections of the app by gateway.",
        Answer(200, "The connections.", admin.LiveState),
        raises=(Conflict,),
    ),
    _row(
        *("POST live/cut", "post_admin_cut", _plain(document.CutDocument, devices.cut_connection)),
        "Close the live connection of a device, which may reconnect.",
        Answer(204, "The gateway is asked to end it."),
        raises=(NotFound, Conflict),
    ),
    _row(
        *("POST live/drain", "post_admin_drain", _plain(document.DrainDocument, devices.drain_gateway)),
        "Make the devices of the app at a gateway reconnect, spread over some time.",
        Answer(202, "The gateway is asked to move them.", document.Drained),
        raises=(NotFound, Conflict),
    ),
)
