"""What a call of the client raises. No text holds the key."""

from __future__ import annotations

from ..errors import PushsvcError
from .documents import Problem


class ClientError(PushsvcError):
    """A call did not succeed."""


class Unreachable(ClientError):
    """No service answered at the URL, or none that is pushsvc."""


class Refused(ClientError):
    """The service refused a call. `problem` names every fault, `retry_after` is in seconds, if given."""

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        faults = "".join(f"\n  {fault.path}: {fault.message}" for fault in problem.errors)
        detail = "" if problem.detail in ("", problem.title) else f": {problem.detail}"
        again = "" if retry_after is None else f", try again in {retry_after:.0f} s"
        super().__init__(f"{problem.title}{detail} ({problem.status}){again}{faults}")
        self.problem = problem
        self.status = problem.status
        self.retry_after = retry_after
