"""Numbers in the text of the guide that stand in no table which another test holds against the code."""

from __future__ import annotations

from typing import Any

import pytest

from pushsvc.api.config import ApiConfig
from pushsvc.api.console import session
from pushsvc.api.devices import document as device_document, importing, tombstones
from pushsvc.api.http import prefer
from pushsvc.api.http.instants import DAYS_AHEAD
from pushsvc.api.pushes import audiences, batch
from pushsvc.cli.service import parts
from pushsvc.client.retries import Retries
from pushsvc.live.gateway import gateway
from pushsvc.live.protocol import codes, commands, tokens, window
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live_client.sequencer import Sequencer
from pushsvc.model import codec, devices, push, status
from pushsvc.model.rates import Rate
from pushsvc.ports import registry
from pushsvc.providers.apns.check import SOON
from pushsvc.providers.apns.vocabulary import ALERT, VOIP, payload_limit
from pushsvc.providers.fcm import limits as fcm_limits, quota
from pushsvc.providers.live import render as live_render
from pushsvc.rules import gcra, policy
from pushsvc.runtime import live as runtime_live, live_files
from pushsvc.runtime.state import admin as admin_state
from pushsvc.settings.schema import Settings
from pushsvc.stages.dispatch import health, limits, settling, watch
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.feedback import stage as feedback
from pushsvc.store import StoreConfig, layout
from pushsvc.store.config import OPEN_MOST
from pushsvc.store.form import FORMAT
from pushsvc.store.link import link
from pushsvc.store.pushes import accepting, listing
from pushsvc.store.revoke import revocations, suppression
from pushsvc.store.webhooks import record
from pushsvc.store.work import held, workers

from ..pages import PAGES

API, SOCKETS, SETTINGS = ApiConfig(), SocketsConfig(), Settings()
DAY = 86_400

SAID: list[tuple[str, str, Any, Any]] = [
    # The push document, its receivers, devices.
    ("reference/push.md", "each 1 to 10,000", API.max_targets, 10_000),
    ("reference/push.md", "at most 99,999", push.MAX_UNREAD, 99_999),
    ("reference/push.md", "2,419,200 (28 days)", push.MAX_TTL, 28 * DAY),
    ("reference/push.md", "up to 64 characters", push.MAX_COLLAPSE, 64),
    ("reference/push.md", "at most 366 days ahead", DAYS_AHEAD, 366),
    ("reference/push.md", "0.1 to 3,600", (push.MIN_ACK_WITHIN, push.MAX_ACK_WITHIN), (0.1, 3600)),
    ("reference/push.md", "APNs 4,096 bytes", payload_limit(ALERT, broadcast=False), 4096),
    ("reference/push.md", "VoIP and channels 5,120", payload_limit(VOIP, broadcast=False), 5120),
    ("reference/push.md", "VoIP and channels 5,120", payload_limit(ALERT, broadcast=True), 5120),
    ("reference/push.md", "FCM 4,096, topics of FCM 2,048", (fcm_limits.LIMIT, fcm_limits.TOPIC_LIMIT), (4096, 2048)),
    ("reference/push.md", "up to 65,536 bytes are accepted", live_render.LIMIT, 65_536),
    ("reference/audiences.md", "Up to 500 devices or users", audiences.FEW, 500),
    ("reference/audiences.md", "no more than 1,000 devices", audiences.MOST, 1000),
    ("reference/device.md", "up to 128 printable characters", devices.MAX_NAME, 128),
    ("reference/device.md", "A user has up to 1,000 devices", registry.MOST_OF_USER, 1000),
    ("reference/device.md", "a device up to 1,000 topics", registry.MOST_TOPICS, 1000),
    ("reference/device.md", "up to 4,096 bytes of JSON", device_document.MAX_TAGS_SIZE, 4096),
    ("reference/device.md", "at most once an hour", layout.SEEN_EVERY, 3_600_000),
    ("reference/pruning.md", "this ends after a day", suppression.RENEWABLE_TTL, DAY),
    ("reference/pruning.md", "a judgement waits a second for more", feedback.LINGER, 1.0),
    # The API.
    ("reference/http.md", "`Prefer: wait=10` (at most 30)", prefer.LONGEST, 30),
    ("reference/http.md", "up to 1,000 different pushes", batch.MOST, 1000),
    ("reference/http.md", "`server.body_limit`: 4 MiB by default", SETTINGS.server.body_limit, 4 * 1024 * 1024),
    ("reference/http.md", "of a push of more than 1,000 deliveries only for those", status.ROWS_FOR_ALL, 1000),
    ("reference/http.md", "after two seconds at most", revocations.PATIENCE, 2.0),
    ("reference/http.md", "undo prunes, up to 10,000 a call", tombstones.MOST, 10_000),
    ("reference/http.md", "the last 100,000 at least", layout.LISTED_ENTRIES, 100_000),
    ("reference/http.md", "examines 20,000 pushes at most", listing.LOOK, 20_000),
    ("reference/http.md", "the statuses of 1,000", listing.ASK, 1000),
    ("reference/http.md", "a push to up to 32 targets is in its queue entries", codec.FEW, 32),
    ("reference/http.md", "their last 50 calls", record.CALLS, 50),
    ("reference/http.md", "for 5 seconds at most", admin_state.COUNTING, 5.0),
    ("reference/http.md", "write up to 500 devices", importing.MOST, 500),
    ("reference/http.md", "four times `dispatch.takeover`", held.LASTS, 4),
    ("reference/http.md", "for up to an hour after that", API.key_outage_seconds, 3600.0),
    ("reference/http.md", "a repeat within 24 h", accepting.KEEP_RECORD, DAY),
    ("reference/errors.md", "took longer than 30 s", API.body_timeout, 30.0),
    ("reference/webhooks.md", "about the last million", StoreConfig().events_max, 1_000_000),
    ("guides/console.md", "lasts 12 hours at most", session.LIFE, 12 * 3600),
    ("guides/console.md", "it ends within 5 seconds", API.key_cache_seconds, 5.0),
    ("guides/clients.md", "for up to 60 seconds", Retries().patience, 60.0),
    ("guides/clients.md", "from a quarter of a second to ten seconds", (Retries().base, Retries().cap), (0.25, 10.0)),
    # Sending.
    ("reference/answers.md", "five tokens in a row get a 429 each, or a 5xx", health.ENOUGH, 5),
    ("reference/answers.md", "there is no connection for a second", watch.AWAY, 1.0),
    ("guides/runbook.md", "after 7 s in which requests have waited and none was answered", watch.SLOW, 7.0),
    ("reference/pruning.md", "or a day before it was asked", policy.STILL_DEAD, 1000 * DAY),
    ("reference/answers.md", "after 1 s, then 2 s, up to 30 s", (health.FIRST_PROBE, health.LAST_PROBE), (1.0, 30.0)),
    ("reference/answers.md", "doubles every quarter of a second", health.STEP, 0.25),
    ("reference/answers.md", "it sends 16 a second at first", health.FIRST_RATE, 16.0),
    ("reference/answers.md", "grows by 5 %", health.GENTLE, 1.05),
    ("reference/answers.md", "If at most three pushes are in trouble", health.FEW, 3),
    ("reference/answers.md", "for ten minutes further trouble", health.GUILT, 600.0),
    (
        "reference/device.md",
        "(12 hours by default)",
        SETTINGS.feedback.strike_span / (SETTINGS.feedback.strikes - 1),
        12 * 3600,
    ),
    ("reference/answers.md", "for an hour from its first trouble on a push uses up no", health.BENEFIT, 3600.0),
    ("reference/limits.md", "It starts at a twentieth", gcra.FLOOR, 1 / 20),
    ("reference/limits.md", "after 60 s of use", quota.RAMP, 60.0),
    (
        "reference/limits.md",
        "up to about 1,300 deliveries",
        round(limits.READY + limits.BATCH + SETTINGS.dispatch.chunk, -2),  # of what is ready, and of one question
        1300,
    ),
    ("reference/limits.md", "it allows what one second of the rate is", limits.SMOOTH, 1.0),
    ("reference/metrics.md", "one batch of 400 at most", settling.BATCH, 400),
    ("guides/sizing.md", "FCM | 600,000 messages a minute", quota.QUOTA, Rate(600_000, 60)),
    ("guides/bulk.md", "uses a quarter of the time", SETTINGS.cleanup.share, 0.25),
    ("guides/bulk.md", "cleans up once a day", SETTINGS.cleanup.every, DAY),
    ("guides/bulk.md", "for 29 days", OPEN_MOST, 29 * DAY * 1000),
    ("guides/bulk.md", "did not answer within two seconds", revocations.PATIENCE, 2.0),
    # The live channel.
    ("guides/live.md", "the ids of the last 500 messages", Sequencer()._memory, 500),
    ("guides/live.md", "at most 512 KB and 100 messages", (window.MESSAGE, commands.PAGE), (512 * 1024, 100)),
    ("guides/live.md", "4501: another connection", codes.REPLACED.code, 4501),
    (
        "guides/live.md",
        "3500, 3503: the token is refused",
        (codes.INVALID_TOKEN.code, codes.REVOKED.code),
        (3500, 3503),
    ),
    ("guides/live.md", "the errors 100 (busy", (codes.INTERNAL.code, codes.INTERNAL.temporary), (100, True)),
    (
        "guides/live.md",
        "and 111 (too many connects)",
        (codes.TOO_MANY_REQUESTS.code, codes.TOO_MANY_REQUESTS.temporary),
        (111, True),
    ),
    ("reference/configuration.md", "may be up to 30 seconds ahead", tokens.LEEWAY, 30.0),
    # Running it.
    ("guides/running.md", "an eighth more, and 200", live_files.SPARE_FILES, 200),
    ("guides/running.md", "(code 3001)", codes.SHUTDOWN.code, 3001),
    ("guides/running.md", "at 200 devices a second or more", runtime_live.PACE, 200.0),
    ("guides/running.md", "and at least 1,024", runtime_live.STRANGERS, 1024),
    ("guides/running.md", "may connect once a second", gateway.CONNECTS, Rate(1, 1)),
    ("guides/running.md", "20 calls a second over plain HTTP", gateway.CALLS, Rate(20, 1)),
    ("guides/running.md", "At most 2,000 messages a second", SOCKETS.messages, 2000),
    ("guides/running.md", "all of them are asked each second", link.LOOK, 1.0),
    ("guides/running.md", "up to about 20 s", SETTINGS.dispatch.takeover + DispatchConfig().reclaim_every, 20.0),
    ("guides/runbook.md", "five seconds after its last report", workers.LASTS, 5.0),
    ("guides/upgrade.md", "reads and writes format 2 alone", FORMAT, 2),
    ("guides/credentials.md", "warns 30 days before the end", SOON, 30 * DAY),
]


@pytest.mark.parametrize(
    ("page", "phrase", "value", "said"), SAID, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_number_of_the_text_is_that_of_the_code(page: str, phrase: str, value: object, said: object) -> None:
    assert phrase in " ".join(PAGES[page].split())
    assert value == said


def test_a_stop_is_over_in_the_time_that_the_page_gives_it() -> None:
    page = " ".join(PAGES["guides/install.md"].split())
    assert (
        f"the longest of `dispatch.drain_timeout` and {parts.SETTLING:g} s, `live.drain` and {parts.LEAVING:g} s"
        in page
    )
    assert f"and {parts.JOBS_GRACE:g} s for `jobs`" in page
    assert f"With the defaults this is {SETTINGS.server.shutdown_timeout + parts.rest_of_stop(SETTINGS):g} s" in page
    assert "give it 90 seconds" in page
