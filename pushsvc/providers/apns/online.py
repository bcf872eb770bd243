"""A check of an APNs account that asks Apple: a push to a token that does not exist.

APNs looks at the credential and the topic before the token, so that `BadDeviceToken`, "the specified device token is
invalid", says that all else is right:
https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from ...errors import CredentialError
from ...model.delivery import Misconfigured, Throttled, TokenDead, TokenSuspect, Unavailable
from ...model.finding import Finding
from ...model.push import Message
from ...net.http2.transport import POST, field, path
from ...ports.provider import LOOK
from ..endpoint import host_fields
from ..files import as_finding
from ..online import ProbeResult, ask, host_of, judge_skew, unreached
from .classify import classify
from .config import Config
from .credentials import ProviderToken, client_context
from .remedies import remedy
from .vocabulary import PLATFORM

MADE_UP: Final = "pushsvc-check"
"""No token: those of APNs are hexadecimal."""
_MESSAGE: Final = Message(
    PLATFORM, b'{"aps":{"content-available":1}}', {"apns-push-type": "background", "apns-priority": "5"}
)


async def check_online(config: Config) -> list[Finding]:
    """Return what APNs says to the account's credential, and whether its hosts can be reached."""
    try:
        token = ProviderToken(config, time.time) if config.key_file else None
        fields = POST + host_fields(config.endpoint) + path(f"/3/device/{MADE_UP}")
        if token is not None:
            fields += field("authorization", token.header)
        fields += b"".join(field(*each) for each in {"apns-topic": config.topic, **_MESSAGE.headers}.items())
        asking = ask(config.endpoint, client_context(config), config.proxy, fields, _MESSAGE.body)
        others = [url for url in (config.broadcast_endpoint, config.channels_endpoint) if url != config.endpoint]
        asked, *reached = await asyncio.gather(
            asking, *(ask(url, client_context(config), config.proxy) for url in dict.fromkeys(others))
        )
    except CredentialError as error:
        return [as_finding(error)]
    found = judge(config, asked, time.time())
    for url, each in zip(dict.fromkeys(others), reached, strict=True):
        if each.trouble:
            what = f"broadcasts cannot be sent or managed: {each.trouble}"
            found.append(Finding("warning", what, f"let this machine connect to {host_of(url)}, if you send any"))
    return found


def judge(config: Config, asked: ProbeResult, now: float) -> list[Finding]:
    """Return what an answer says about the account. Pure."""
    host, answer = host_of(config.endpoint), asked.answer
    if answer is None:
        return [unreached(asked.trouble, config.cert_file)]
    outcome = classify(answer, _MESSAGE, now, config.topic)
    message = f"{host} answers {answer.status} {outcome.reason}"
    match outcome:
        case TokenSuspect() | TokenDead():
            text = f"{host} accepts the credential for {config.topic} (HTTP/2; {outcome.reason} to a made-up token)"
            found = [Finding("ok", text)]
        case Misconfigured():
            found = [Finding("error", message, remedy(outcome.reason, asked.skew) or LOOK)]
        case Throttled() | Unavailable():
            found = [Finding("warning", f"{message}: the credential was not checked", "try again later")]
        case _:
            found = [Finding("warning", f"{message}, which says nothing about the credential", "try again later")]
    return found + judge_skew(asked.skew, host)
