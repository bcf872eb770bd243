"""The identity at FCM: a service account, and the access tokens that Google issues for it.

firebase-admin reads the file and google-auth requests the tokens, in a thread: their HTTP client blocks, and on the
event loop it would stop every push for the length of a round trip. A token is replaced well before its end, so that
pushes wait only for the first one.

Source: https://developers.google.com/identity/protocols/oauth2/service-account#httprest
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import json
import os
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from ...errors import CredentialError
from ...net.dial import UNANSWERED, fault_of
from ...net.proxy import Proxy, proxy_for
from ..files import read_credential
from .config import PROJECT, Config

AHEAD: Final = 300.0
"""Seconds before its end at which a token is replaced; at most half of its life."""
LEAST_LIFE: Final = 10.0
"""Seconds. A token that is refused sooner than this after its issue is not to blame."""
BACKOFF: Final = (1.0, 60.0)
"""Seconds before asking again: after the first failure, and at most."""

UNREACHABLE: Final = "token_endpoint_unreachable"
"""The reason of a token endpoint that gives no answer."""
_REMEDY: Final = "download the key again: Firebase console, project settings, service accounts"


class TokenRefusedError(Exception):
    """No token was issued. `final` if the service account itself is refused, so that only a correction helps."""

    def __init__(self, text: str, *, reason: str, final: bool) -> None:
        super().__init__(text)
        self.reason = reason
        self.final = final


Fetch: TypeAlias = Callable[[], tuple[str, float]]
"""Blocks; returns a token and the seconds that it lives. Raises `TokenRefusedError`."""


class ServiceAccount(Struct, frozen=True):
    """The content of the service account's file, which can request tokens."""

    project_id: str
    email: str
    token_uri: str
    fetch: Fetch

    def __repr__(self) -> str:
        return f"ServiceAccount(email={self.email!r})"


def load_service_account(config: Config, *, timeout: float = 10.0) -> ServiceAccount:
    """Read the file. `timeout` in seconds, for each step of a token request. Raises `CredentialError`."""
    path = config.service_account_file
    content = read_credential(path, "service_account_file")
    try:
        info = json.loads(content)
    except (ValueError, RecursionError):
        raise CredentialError(path, "is not JSON", _REMEDY) from None
    if not isinstance(info, dict) or info.get("type") != "service_account":
        raise CredentialError(path, 'is not a service account: it has no "type": "service_account"', _REMEDY)
    for name in ("client_email", "private_key", "token_uri"):
        if not isinstance(info.get(name), str) or not info[name]:
            raise CredentialError(path, f"has no `{name}`", _REMEDY)
    if not _is_url(info["token_uri"]):
        raise CredentialError(path, "its `token_uri` is not a URL", _REMEDY)
    from cryptography.exceptions import UnsupportedAlgorithm
    from firebase_admin import credentials as firebase

    # The texts of the errors are left out: they could quote the key.
    try:
        certificate = firebase.Certificate(info)
    except TypeError:
        text = "its `private_key` is encrypted, which Google's never are"
        raise CredentialError(path, text, f"{_REMEDY}, or decrypt it: openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CredentialError(path, "its `private_key` cannot be read", _REMEDY) from None
    project_id = config.project_id or str(info.get("project_id") or "")
    if PROJECT.fullmatch(project_id) is None:
        raise CredentialError(path, "names no project", "give `project_id`")
    google = certificate.get_credential()
    try:
        google.signer.sign(b"")
    except Exception:  # whatever a key of another kind makes of it
        raise CredentialError(path, "its `private_key` is not an RSA key, which Google's are", _REMEDY) from None
    proxy = proxy_for(info["token_uri"], config.proxy, os.environ)
    fetch = functools.partial(_fetch, google, info["token_uri"], config.ca_file, proxy, timeout)
    return ServiceAccount(project_id, info["client_email"], info["token_uri"], fetch)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _fetch(google: Any, token_uri: str, ca_file: str, proxy: Proxy | None, timeout: float) -> tuple[str, float]:
    """Request a token. Uses a connection of its own, because this happens once an hour."""
    from google.auth.exceptions import GoogleAuthError, RefreshError
    from google.auth.transport.requests import Request
    from requests.exceptions import ReadTimeout

    request = Request()
    host = urlsplit(token_uri).netloc
    statuses: list[int] = []

    # Given with each request: what the session says, an environment variable would override.
    given: dict[str, Any] = {"timeout": timeout, "proxies": _proxies(proxy), **({"verify": ca_file} if ca_file else {})}

    def ask(*words: Any, **options: Any) -> Any:
        answer = request(*words, **{**options, **given})
        statuses.append(answer.status)
        return answer

    try:
        google.refresh(ask)
    except RefreshError as error:
        # google-auth puts `None` where the answer has no description, and its own list of what is worth another try
        # lacks the 502 of a gateway, for one.
        text = " ".join(str(error.args[0] if error.args else "").split())[:200].removesuffix(": None")
        final = not error.retryable and not (statuses and statuses[-1] >= 500)
        problem = f"the token endpoint {host} " + ("refuses the service account" if final else "is in trouble")
        raise TokenRefusedError(f"{problem}: {text}", reason=_word(text), final=final) from None
    except (GoogleAuthError, OSError, ValueError) as error:
        way = "" if proxy is None else f" through the {proxy.name}"
        why = f"cannot be reached{way}: {_words_of(_innermost(error))}"
        if any(isinstance(each, ReadTimeout) for each in (error.__cause__, *error.args)):
            why = f"{UNANSWERED} {timeout:g} s{way}"
        raise TokenRefusedError(f"the token endpoint {host} {why}", reason=UNREACHABLE, final=False) from None
    finally:
        request.session.close()
    if not google.token:
        raise TokenRefusedError(f"the token endpoint {host} gave no token", reason="no_token", final=False)
    expiry = google.expiry
    if expiry is None:
        return google.token, 3600.0
    # google-auth keeps it in UTC without saying so.
    return google.token, expiry.replace(tzinfo=datetime.UTC).timestamp() - time.time()


def _proxies(proxy: Proxy | None) -> dict[str, str]:
    """Return the proxies in the form of requests. Without a proxy the environment is ignored, because it was evaluated
    before."""
    return {"no_proxy": "*"} if proxy is None else {"https": proxy.url, "http": proxy.url}


def _word(text: str) -> str:
    """Return OAuth's error code, if it is one of RFC 6749 section 5.2."""
    word = text.partition(":")[0]
    known = ("invalid_grant", "invalid_client", "invalid_scope", "unauthorized_client", "invalid_request")
    return word if word in known else "token_refused"


def _words_of(error: BaseException) -> str:
    """Return what is wrong in words, where these are the system's own; else only the kind of the error, whose text
    could hold anything."""
    own = isinstance(error, ssl.SSLError | TimeoutError) or (isinstance(error, OSError) and error.errno is not None)
    return fault_of(error) if own else type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = (
            error.__cause__
            or error.__context__
            or next((item for item in error.args if isinstance(item, BaseException)), error)
        )
    return error


def _unforeseen(error: Exception) -> TokenRefusedError:
    return TokenRefusedError(
        f"no access token could be obtained: {type(error).__name__}", reason="no_token", final=False
    )


class AccessToken:
    """The current access token, kept fresh by `keep`."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self.value = ""
        """Empty while there is none that could be used."""
        self.number = 0
        """The number of tokens so far, by which a refusal names the token that it means."""
        self.failure: TokenRefusedError | None = None
        """Why the last request for a token failed; None after one that did not."""
        self._fetch = fetch
        self._clock = clock
        self._changed = changed
        self._fetched_at = 0.0
        self._expires_at = 0.0
        self._due = asyncio.Event()

    def usable(self) -> bool:
        """Return whether there is an unexpired token. Uses a clock that also runs while the machine sleeps. If the
        clock was set back before the token's issue, a new one is requested."""
        if self.value and not self._fetched_at <= self._clock() < self._expires_at:
            self.value = ""
            self._due.set()
        return bool(self.value)

    def refuse(self, number: int) -> bool:
        """Discard the token with this number, which FCM refused. Returns False if a newer one is no remedy, because
        this one is new."""
        if number != self.number or not self.value:
            return True  # It is being replaced, or has been.
        if 0 <= self._clock() - self._fetched_at < LEAST_LIFE:
            return False
        self.value = ""
        self._due.set()
        return True

    async def keep(self) -> None:
        """Get the first token, and the next one before each ends, until cancelled. Calls `changed` after each try."""
        failures = 0
        while True:
            self._due.clear()
            try:
                self.value, life = await asyncio.to_thread(self._fetch)
            except Exception as error:
                # Whatever it is, asking goes on: a keeper that ends would stop the route for good.
                self.failure = error if isinstance(error, TokenRefusedError) else _unforeseen(error)
                failures += 1
                wait = min(BACKOFF[1], BACKOFF[0] * 2.0 ** min(failures - 1, 30))
                left = self._expires_at - self._clock()
                if left <= 0:
                    self.value = ""
                elif self.value:
                    wait = min(wait, left)
            else:
                self.failure, failures = None, 0
                self.number += 1
                self._fetched_at = self._clock()
                self._expires_at = self._fetched_at + life
                wait = max(1.0, life - min(AHEAD, life / 2))
            try:
                self._changed()
            except Exception as error:
                asyncio.get_running_loop().call_exception_handler({"message": "changed raised", "exception": error})
            await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            pass
