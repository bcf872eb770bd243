"""Every error that pushsvc raises on purpose, in one tree.

PushsvcError
├── ConfigError            the configuration is wrong; names the key and the remedy
├── StoreError
│   ├── StoreUnavailable   Redis cannot be reached            503
│   ├── StoreFormat        another version of pushsvc wrote the store; says what to do
│   └── StoreOwned         another process owns the embedded store
├── CredentialError        a provider credential cannot be used; names the file and the remedy
└── RequestError           the caller's request is refused; carries its HTTP status
    ├── MalformedBody      not JSON at all                    400
    ├── Unauthorized       no key, or an unknown one          401
    ├── Forbidden          the caller may not do this         403
    ├── NotFound           no such thing                      404
    ├── MethodNotAllowed   the path exists, the verb does not 405
    ├── Conflict           the state forbids it               409
    │   └── Unreadable     a newer pushsvc wrote the record
    ├── Gone               it is no longer there, or never was 410
    ├── ContentTooLarge    the body or a rendered payload     413
    ├── InvalidRequest     fields that do not validate        422
    ├── TooManyRequests    an intake bound is reached         429
    ├── BadGateway         a provider refuses us              502
    └── Unavailable        a part that is needed is away      503

Each `RequestError` becomes an RFC 9457 problem document in one place, `api/http/problems.py`.
No error text carries a device token, an API key or any other secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

_EMBEDDED: Final = "Of the embedded store, see `store.log` and `server.pid` in store.data_dir"
ABSENT_REDIS: Final = f"is Redis running there? redis.url says where it is. {_EMBEDDED}"
"""What to do about a Redis that takes no connection."""
SILENT_REDIS: Final = (
    "see that Redis runs: `redis-cli ping` must answer at once where redis.url says; restart one that hangs. "
    f"{_EMBEDDED}"
)
"""What to do about a Redis that gives no answer."""


class PushsvcError(Exception):
    """The root: catch it to catch whatever pushsvc raises on purpose."""


@dataclass
class _Placed(PushsvcError):
    path: str
    message: str
    remedy: str = ""

    @property
    def placed(self) -> str:
        """The message with its place."""
        return f"{self.path}: {self.message}"

    def __str__(self) -> str:
        return self.placed + (f" ({self.remedy})" if self.remedy else "")


class ConfigError(_Placed):
    """The configuration is wrong. `path` is the dotted key or the file, `remedy` says what to do."""


class StoreError(PushsvcError):
    """Something about Redis."""


class StoreUnavailable(StoreError):
    """Redis cannot be reached, or did not answer in time. `fix` is what to do about it, where the cause says so."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class StoreFormat(StoreError):
    """The store has a format that this version must not use. `fix` is what to do about it."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message} ({fix})")
        self.message = message
        self.fix = fix


class StoreOwned(StoreError):
    """Another process owns the embedded store of this data folder."""


class CredentialError(_Placed):
    """A provider credential cannot be used. `path` names the key or file, `remedy` what to do."""

    @property
    def placed(self) -> str:
        """The message with its place, which is the subject of most."""
        is_subject = self.message.startswith(("is ", "has ", "holds ", "names ", "cannot "))
        return f"{self.path} {self.message}" if is_subject else super().placed


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a request body, and where: `to.tokens[3].token`."""

    path: str
    message: str


def summary(count: int, more: bool = False) -> str:
    """Return the sentence above the list of faults."""
    if more:
        return f"The first {count:,} faults are listed; there are more."
    return "1 fault was found." if count == 1 else f"{count:,} faults were found."


class RequestError(PushsvcError):
    """A request is refused. `status` is HTTP's, `type` the last part of the problem type's URI. Without a `detail`,
    that is the number of faults or, without faults either, the title."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "error"
    title: ClassVar[str] = "Error"

    def __init__(self, detail: str = "", *, faults: Sequence[Fault] = (), retry_after: int | None = None) -> None:
        self.detail = detail or (summary(len(faults)) if faults else self.title)
        super().__init__(self.detail)
        self.faults = tuple(faults)
        self.retry_after = retry_after  # seconds, for 429 and 503


class MalformedBody(RequestError):
    status, type, title = 400, "malformed-body", "The body is not valid JSON"


class Unauthorized(RequestError):
    status, type, title = 401, "unauthorized", "Not authenticated"


class Forbidden(RequestError):
    status, type, title = 403, "forbidden", "Not allowed"


class NotFound(RequestError):
    status, type, title = 404, "not-found", "No such resource"


class MethodNotAllowed(RequestError):
    status, type, title = 405, "method-not-allowed", "The method is not allowed here"


class Conflict(RequestError):
    status, type, title = 409, "conflict", "Not possible in the present state"


class Unreadable(Conflict):
    """What is asked for was written by a newer pushsvc, as after a rollback: this version neither shows nor changes it.
    `device_ids` are those of the call that are concerned, where it is about devices."""

    def __init__(self, what: str, *, device_ids: Sequence[str] = ()) -> None:
        super().__init__(f"{what} was written in a form that this version of pushsvc cannot read: use the newer one")
        self.device_ids = tuple(device_ids)


class Gone(RequestError):
    status, type, title = 410, "gone", "The resource is no longer there"


class ContentTooLarge(RequestError):
    status, type, title = 413, "content-too-large", "The body, a payload or the number of deliveries is too large"


class InvalidRequest(RequestError):
    status, type, title = 422, "invalid-request", "The request is not valid"


class TooManyRequests(RequestError):
    status, type, title = 429, "too-many-requests", "Too many requests"


class BadGateway(RequestError):
    status, type, title = 502, "bad-gateway", "The provider refused the request, or its answer cannot be read"


class Unavailable(RequestError):
    status, type, title = 503, "unavailable", "A required part is not available"
