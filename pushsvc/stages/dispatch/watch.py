"""What a route's answers say about the route: collected, judged and published in one place.

`health` and `parts` decide, pure; this module passes the answers to them, and their results to the log, the metrics
and callers (`held`). A trouble has one line in the log when it begins, others at growing intervals, and one when it
ends.
"""

from __future__ import annotations

from typing import Final

from ...model.delivery import Misconfigured, Outcome, Throttled, Unavailable
from ...model.push import Lane, Route
from ...model.routing import platform_of
from ...ports.provider import CREDENTIAL, LOOK, REMOVED, STREAMS, Provider
from ...rules.policy import Blame, RetryPolicy
from ...telemetry import get_logger
from .evidence import AT_ONCE, SILENCE, UNANSWERED, cause_of, text_of
from .health import RouteHealth, Trouble
from .metrics import RouteMetrics
from .parts import Parts

AWAY: Final = 1.0
"""Seconds without any connection from which on the route is in trouble. Connections are replaced within less."""
SILENT: Final = 5.0
"""Seconds without a byte from a provider after which this is reported, long before its requests time out. The route
is not held by it: a provider that is slow answers PINGs, and requests have their whole `request_timeout`."""
SLOW: Final = 7.0
"""Seconds for which requests have waited and none was answered, after which this is reported, until one is."""
REPEAT: Final = (60.0, 3600.0)
"""Seconds after which the log repeats a trouble: the first time, doubled up to the second."""


class RouteWatch:
    """Collects what the answers of one route say about it. Times are seconds of one monotonic clock."""

    def __init__(self, route: Route, policy: RetryPolicy, metrics: RouteMetrics, now: float) -> None:
        self.health = RouteHealth(now)
        self._began = now
        self.parts = Parts()
        self._route = route
        self._policy = policy
        self._metrics = metrics
        self._log = get_logger("dispatch").bind(app=route.app, platform=route.platform)
        self._away_since: float | None = None
        self._silent = False
        self._slow = self._maybe_slow = False
        self._lost: dict[str, float] = {}
        """Parts without any connection of theirs, and since when."""
        self._shown: dict[str, _LogLine] = {}

    def judge(
        self,
        outcome: Outcome,
        now: float,
        *,
        token: str,
        push: str,
        lane: Lane,
        part: str,
        probe: bool,
        outdated: bool = False,
    ) -> Blame:
        """Record an outcome, and return whose trouble it is. An `outdated` one is of an account that is no longer in
        use: that it was refused says nothing of the one that is."""
        if isinstance(outcome, Misconfigured):
            if outdated:
                self.parts.unjudged(part)
                return "route"
            if outcome.part:
                self.parts.refused(outcome.part, outcome.reason, now, probe=part == outcome.part)
                self.health.worked(now, token=token, push=push, lane=lane, probe=probe)
                return "route"
        cause, held = cause_of(outcome), self.health.trouble
        if cause == "works":
            if part:
                self.parts.passed(part, now)
            self.health.worked(now, token=token, push=push, lane=lane, probe=probe)
            return "delivery"
        if part:
            self.parts.unjudged(part)
        if isinstance(outcome, Misconfigured) and outcome.chosen and not self.health.is_open:
            if held is not None and held.cause in AT_ONCE:
                # Whether the credentials are good again, or the throttle is over, it does not say.
                return self.health.troubled(held, now, token=token, push=push, lane=lane, probe=probe)
            self.health.worked(now, token=token, push=push, lane=lane, probe=probe)  # The provider answers again.
            return "delivery"
        if cause is None:
            self.health.unjudged(now, probe=probe)
            if isinstance(outcome, Unavailable) and outcome.part:
                return "nobody"  # Its own connections are in trouble.
            return "route" if held is not None else "delivery"
        wait = 0.0
        if isinstance(outcome, Throttled) and outcome.scope == "route":
            default = self._policy.throttled.get(platform_of(self._route.platform), 0.0)
            wait = default if outcome.retry_after is None else outcome.retry_after
        elif isinstance(outcome, Unavailable):
            wait = outcome.retry_after or 0.0
        trouble = Trouble(cause, outcome.reason, outcome.status)
        return self.health.troubled(trouble, now, token=token, push=push, lane=lane, probe=probe, wait=wait)

    def held(self, provider: Provider, now: float, unanswered: float) -> dict[str, str]:
        """Return what does not send now, by its name (`app/platform`, `app/platform/part`), and why, with the remedy.
        Requests have waited for `unanswered` seconds, and none was answered."""
        return {name: text for name, (_, text) in self._held(provider, now, unanswered).items()}

    def seconds_since_work(self, now: float) -> dict[str, float]:
        """Return the seconds since the route, and each of its parts that was in question, was last seen to work, by
        name."""
        route = self._route.name
        found = {f"{route}/{part}": now - at for part, at in self.parts.passed_at.items()}
        if self.health.trouble is None and self.health.worked_at > self._began:
            found[route] = now - self.health.worked_at
        return found

    def tick(self, provider: Provider, now: float, unanswered: float) -> None:
        """Check the connections and publish changes. To be called a few times a second. `unanswered` is as for
        `held`."""
        if not provider.trouble or _label(provider.trouble):
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        elif now - self._away_since >= AWAY:
            self.health.lost(Trouble("unreachable", "no connection"), now)
        if provider.silence >= SILENT:
            self._silent = True
        elif not provider.trouble:  # Without a connection nothing can be received.
            self._silent = False
        slow = unanswered >= SLOW
        # At the second look: what came in a pause of the process may not be read at the first one after it.
        self._slow, self._maybe_slow = slow and self._maybe_slow, slow
        for part, uplink in provider.parts.items():
            if uplink.trouble:
                self._lost.setdefault(part, now)
            else:
                self._lost.pop(part, None)
        held = self._held(provider, now, unanswered)
        self._metrics.held({label for label, _ in held.values()})
        for name in [name for name in self._shown if name not in held]:
            line = self._shown.pop(name)
            self._log.info("route_resumed", held=name, reason=line.label, seconds=round(now - line.since, 1))
        for name, (label, text) in held.items():
            line = self._shown.setdefault(name, _LogLine(label, now))
            line.label = label
            if line.due(now):
                self._log.error("route_held", held=name, reason=label, why=text, seconds=round(now - line.since, 1))

    def _held(self, provider: Provider, now: float, unanswered: float) -> dict[str, tuple[str, str]]:
        route = self._route.name
        found: dict[str, tuple[str, str]] = {}
        trouble = self.health.reported_trouble(now)
        if label := _label(provider.trouble):
            found[route] = (label, provider.trouble)
        elif provider.refused:
            found[route] = (provider.refused, f"{provider.trouble}: {provider.remedy(provider.refused) or LOOK}")
        elif trouble is not None and trouble.cause == "credentials":
            found[route] = (trouble.label, f"{trouble.reason}: {provider.remedy(trouble.reason) or LOOK}")
        elif provider.trouble and self._away_since is not None and now - self._away_since >= AWAY:
            found[route] = ("unreachable", f"unreachable: {text_of('unreachable', provider.trouble)}")
        elif trouble is not None:
            detail = " ".join(word for word in (str(trouble.status or ""), trouble.reason) if word)
            text = text_of(trouble.cause, detail, provider.remedy(trouble.reason))
            found[route] = (trouble.label, f"{trouble.label}: {text}")
        elif self._silent:
            found[route] = ("timeout", f"timeout: {SILENCE}")
        elif self._slow and unanswered >= SLOW:
            found[route] = ("timeout", f"timeout: {UNANSWERED}")
        for part, reason in self.parts.held.items():
            found[f"{route}/{part}"] = (reason, f"{reason}: {provider.remedy(reason) or LOOK}")
        for part, uplink in provider.parts.items():
            if uplink.trouble and now - self._lost.get(part, now) >= AWAY:
                text = text_of("unreachable", uplink.trouble, provider.remedy(part))
                found[f"{route}/{part}"] = ("unreachable", f"unreachable: {text}")
            elif uplink.silence >= SILENT:
                found[f"{route}/{part}"] = ("timeout", f"timeout: {SILENCE}")
        return found


class _LogLine:
    def __init__(self, label: str, now: float) -> None:
        self.label = label
        self.since = self._at = now
        self._gap = REPEAT[0]

    def due(self, now: float) -> bool:
        if now < self._at:
            return False
        self._at, self._gap = now + self._gap, min(REPEAT[1], self._gap * 2)
        return True


def _label(trouble: str) -> str:
    """Return the label of a trouble that has one of its own, since it is not about connections; else an empty text."""
    return next((begin.rstrip(": ") for begin in (CREDENTIAL, REMOVED, STREAMS) if trouble.startswith(begin)), "")
