"""A check of a Firebase account that asks Google: an access token, and a message that is only validated.

With `validate_only` nothing is sent (https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send). A
registration token that is none is answered by `INVALID_ARGUMENT`, once account and project are right
(https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode).
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ...errors import CredentialError
from ...model.delivery import Misconfigured, Throttled, Unavailable
from ...model.finding import Finding
from ...model.push import Message
from ...net.http2.transport import field
from ...ports.provider import LOOK
from ..endpoint import tls_context
from ..files import as_finding
from ..online import TIMEOUT, ProbeResult, ask, host_of, judge_skew, unreached, way_remedy
from .classify import classify
from .config import Config
from .credentials import UNREACHABLE, TokenRefusedError, load_service_account
from .remedies import remedy
from .render import PLATFORM
from .send import head_of

_BODY: Final = b'{"validate_only":true,"message":{"token":"pushsvc check","data":{"check":"1"}}}'
"""No token: those of FCM have no spaces."""
_MESSAGE: Final = Message(PLATFORM, b"{}")


async def check_online(config: Config) -> list[Finding]:
    """Return what Google says to the service account and to a message of its project."""
    try:
        account = load_service_account(config, timeout=TIMEOUT)
        context = tls_context(config.ca_file)
    except CredentialError as error:
        return [as_finding(error)]
    fields = head_of(config, account.project_id)
    try:
        token, _ = await asyncio.to_thread(account.fetch)
    except TokenRefusedError as error:
        asked = await ask(config.endpoint, context, config.proxy, fields, _BODY)  # for its clock
        fix = "try again later"
        if error.final:
            fix = remedy(error.reason, asked.skew) or LOOK
        elif error.reason == UNREACHABLE:
            fix = way_remedy(str(error))
        return [Finding("error", str(error), fix), *judge_skew(asked.skew, host_of(config.endpoint))]
    fields += field("authorization", f"Bearer {token}")
    asked = await ask(config.endpoint, context, config.proxy, fields, _BODY)
    return judge(config, account.project_id, asked, time.time())


def judge(config: Config, project: str, asked: ProbeResult, now: float) -> list[Finding]:
    """Return what an answer says about the account. Pure."""
    host, answer = host_of(config.endpoint), asked.answer
    if answer is None:
        return [unreached(asked.trouble)]
    outcome = classify(answer, _MESSAGE, now)
    message = f"{host} answers {answer.status} {outcome.reason}"
    match outcome:
        case Misconfigured():
            found = [Finding("error", message, remedy(outcome.reason, asked.skew) or LOOK)]
        case Throttled() | Unavailable():
            found = [Finding("warning", f"{message}: the account was not checked", "try again later")]
        case _:
            text = f"{host} accepts the account for {project} (HTTP/2; {outcome.reason or 'valid'} to a made-up token)"
            found = [Finding("ok", text)]
    return found + judge_skew(asked.skew, host)
