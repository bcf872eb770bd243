"""Begins the series whose labels are known before anything is counted: a rate, and an alert on it, would miss the first
value of a series that begins with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

from ..model.delivery import End
from ..model.push import Platform
from .metrics import (
    ACCEPTED,
    ATTEMPTS,
    CHILD_RESTARTS,
    DEAD_LETTERS_DROPPED,
    DELIVERIES,
    FEEDBACK_GAPS,
    HTTP_REQUESTS,
    JOBS,
    REFUSED,
    REPLAYED,
    UNREADABLE,
    WEBHOOK_CALLS,
)

LIMITS: Final = ("app", "key", "queue", "share")
"""The limits by which pushes are refused."""
WEBHOOK_RESULTS: Final = ("delivered", "failed", "halved", "given_up", "gone")
POST_CODES: Final = (202, 429, 500, 503)
"""Answers to a push, by which a caller knows whether it was accepted."""
PARTS: Final = ("serve", "dispatch", "feedback", "jobs", "live", "simulator")


AppRecord: TypeAlias = Literal[
    "dead_batch",
    "dead_letter",
    "delivery",
    "device",
    "erasure",
    "event",
    "live_push",
    "receipt",
    "replay",
    "row",
    "webhook_call",
]
"""The kinds of records that belong to an app."""
SharedRecord: TypeAlias = Literal["api_key", "live_inbox"]
"""The kinds of records that are counted without an app."""


def begin_apps(apps: Iterable[str]) -> None:
    """Begin the series that every process which uses the store may count, whatever part it is."""
    for shared in get_args(SharedRecord):
        UNREADABLE.labels("", shared)
    for app in apps:
        DEAD_LETTERS_DROPPED.labels(app)
        REPLAYED.labels(app)
        for record in get_args(AppRecord):
            UNREADABLE.labels(app, record)
        for reader in ("webhook", "api"):
            FEEDBACK_GAPS.labels(app, reader)


def begin_app(app: str) -> None:
    """Begin the series of an app that only the API counts."""
    ACCEPTED.labels(app)
    for limit in LIMITS:
        REFUSED.labels(app, limit)
    for code in POST_CODES:
        HTTP_REQUESTS.labels(app, "POST", "/v1/push", str(code))


def begin_route(app: str, platform: Platform, results: Iterable[str]) -> None:
    """Begin the series of a route, whose provider's answers are counted by these results."""
    for end in get_args(End):
        DELIVERIES.labels(app, platform, end, "")
    for result in results:
        ATTEMPTS.labels(app, platform, result)


def begin_jobs(jobs: Iterable[str], webhooks: Iterable[str]) -> None:
    """Begin the series of jobs, by their names, and of the webhooks of apps."""
    for job in jobs:
        for result in ("done", "failed"):
            JOBS.labels(job, result)
    for app in webhooks:
        for result in WEBHOOK_RESULTS:
            WEBHOOK_CALLS.labels(app, result)


for _part in PARTS:
    CHILD_RESTARTS.labels(_part)
