"""Its half of the simulator: another reading of the same rules, which shares no code with the provider."""

from __future__ import annotations

from typing import Any, Final

from pushsvc.lab.simulator.certificates import Credentials
from pushsvc.lab.simulator.frames import literal, status_field
from pushsvc.lab.simulator.halves import Half, TokenKind
from pushsvc.lab.simulator.hpack import Headers
from pushsvc.lab.simulator.http2 import Answer
from pushsvc.lab.simulator.provider import Decision, Setup, SimulatedProvider
from pushsvc.lab.simulator.scenario import PREFIX, ScenarioError, nameable, parse

PATH: Final = b"/push/"
REASONS: Final = {
    "BadRequest": 400,
    "Forbidden": 403,
    "Gone": 410,
    "TooManyRequests": 429,
    "ServiceUnavailable": 503,
}
_INTERFERENCE: Final = {"unavailable": "ServiceUnavailable", "refused": "Forbidden", "throttled": "TooManyRequests"}


class Simulated(SimulatedProvider):
    """The provider on one port. It answers 201, which its record counts as accepted."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, REASONS, streams=100)

    def decide(self, headers: Headers, body: bytes, memory: Any, now: float) -> Decision:
        fields = {each[0]: each[1] for each in headers}
        where = fields.get(b":path", b"")
        if (trouble := self.switches.interfere(where, now)) is not None:
            return self._refuse(_INTERFERENCE[trouble]), b"", None, None
        if not where.startswith(PATH) or not fields.get(b"p256dh") or not fields.get(b"auth"):
            return self._refuse("BadRequest"), b"", None, None
        token = where[len(PATH) :]
        if not token.startswith(PREFIX.encode()):
            return self._accept(), token, token + body, None
        try:
            step = self.stage.next_step(token.decode())
        except ScenarioError:
            return self._refuse("BadRequest"), token, None, None
        if step.name in REASONS:
            return self._refuse(step.name, self.retry_after(step, now)), token, None, step
        return self._accept(), token, token + body, step

    @staticmethod
    def _accept() -> Answer:
        return Answer(201, "", status_field(201))

    @staticmethod
    def _refuse(reason: str, wait: bytes | None = None) -> Answer:
        block = status_field(REASONS[reason])
        return Answer(REASONS[reason], reason, block if wait is None else block + literal(b"retry-after", wait))


def _section(credentials: Credentials, url: str) -> str:
    return f'endpoint = "{url}"\nca_file = "{credentials.ca_file}"\n'


def token(scenario: str, unique: str) -> str:
    """The end of an endpoint that plays `scenario`. Raises `ScenarioError`."""
    return str(parse(f"{PREFIX}{scenario}:{unique}", REASONS))


def subscription(url: str, scenario: str, unique: str, *, auth: str = "c2VjcmV0") -> dict[str, Any]:
    """A subscription at the simulator whose endpoint plays `scenario`."""
    return {"endpoint": f"{url}{PATH.decode()}{token(scenario, unique)}", "keys": {"p256dh": "cHVibGlj", "auth": auth}}


HALF: Final = Half(make=Simulated, section=_section, tokens={"threepart": TokenKind(token, nameable(REASONS))})
