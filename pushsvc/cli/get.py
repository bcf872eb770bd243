"""One GET by the standard library, for commands that need no more of HTTP: importing aiohttp's client takes longer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import quote, urlsplit

from ..net.tls import client_context

_ASCII = "".join(map(chr, range(0x21, 0x7F)))


async def get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the text of the answer of `url`, whose server may take 5 seconds for each step. A redirect
    is an answer: a key is sent nowhere else. Raises `OSError` without an answer, `ValueError` where the text is no
    URL."""
    return await asyncio.to_thread(_get, url, headers or {})


def _get(url: str, headers: Mapping[str, str]) -> tuple[int, str]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an absolute URL of HTTP")
    connection = (
        HTTPConnection(parts.hostname, parts.port, timeout=5.0)
        if parts.scheme == "http"
        else HTTPSConnection(parts.hostname, parts.port, timeout=5.0, context=client_context())
    )
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request("GET", quote(target, safe=_ASCII), headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except HTTPException as error:
        raise ConnectionError(f"the answer is not one of HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
