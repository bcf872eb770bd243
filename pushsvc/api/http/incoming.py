"""Reads the parameters and the body of a request, and refuses bodies of other types or codings and those that are too
large.

aiohttp would inflate every body that it parses, including those that are never used: a stranger's megabyte would become
a gigabyte of work after the 401. So its parser passes bodies on as they are, and they are inflated here after
authentication: in pieces between which other requests run, no further than the limit, and only if the end is there. RFC
1952 ends a member with its CRC32 and size; a body without them was cut off, and nothing of it is accepted.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs, web

from ...errors import ContentTooLarge, MalformedBody
from ...problems import RequestTimeout
from ..call import Call
from ..config import ApiConfig
from .params import JSON, read_path, read_query
from .problems import ACCEPT_ENCODING, ClientGone, UnsupportedCoding, UnsupportedMediaType, body_error
from .request import ApiRequest, Parameters

CURL_DEFAULT: Final = "application/x-www-form-urlencoded"
"""The default type of `curl -d`. It is treated as JSON, so that a first try works."""

_PIECE: Final = 256 * 1024
"""Bytes that are inflated before other requests run: about a millisecond."""
_MEMBERS: Final = 256
"""The maximum number of members of one gzip body; `bgzip` makes one of each 64 KB."""


def receive(call: Call, names: Mapping[str, str], request: ApiRequest) -> Parameters:
    """Return what the call takes of the head of its request. Raises `InvalidRequest` or `NotFound` for parameters, or
    `UnsupportedMediaType`."""
    params: dict[str, Any] = {}
    query = request.query_string
    if (query or call.params) and call.keyed:
        params = read_query(request.query.items() if query else (), call.params)
    if call.names:
        params |= read_path(names, call.names)
    document, headers = call.document, request.headers
    lines, usual = False, True
    if document is not None:
        lines = bool(document.lines) and request.content_type == document.lines
        # The common value first, because parsing each would be slower.
        usual = lines or headers.get(hdrs.CONTENT_TYPE) == JSON
        if not usual and (request.body_exists or not document.optional):
            _check_type(request)
    params |= {param.name: param.parse(headers.getall(param.name)) for param in call.headers if param.name in headers}
    received = Parameters(params, lines, headers.get(hdrs.CONTENT_ENCODING))
    if usual:  # whatever the length of the body is
        request.parsed.received = received
    return received


def _check_type(request: ApiRequest) -> None:
    """Raise `UnsupportedMediaType` for a body that is not JSON."""
    if request.headers.get(hdrs.CONTENT_TYPE) is not None:
        kind, charset = request.content_type, request.charset
        if kind not in (JSON, CURL_DEFAULT) and not (kind.startswith("application/") and kind.endswith("+json")):
            raise UnsupportedMediaType(
                "Send the push as JSON with the header `Content-Type: application/json` (curl: `--json @push.json`)."
            )
        if charset is not None and charset.lower() not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType("Send the JSON as UTF-8.")


async def read_body(request: ApiRequest, config: ApiConfig, coded: str | None) -> bytes:
    """Return the whole body, inflated by the value of its `Content-Encoding`. Raises `ContentTooLarge`,
    `UnsupportedCoding`, `RequestTimeout`, `MalformedBody` or `ClientGone`."""
    limit = config.body_limit
    content = request.content
    arrived = content.is_eof()
    if not arrived and (request.content_length or 0) > limit:
        raise _too_large(limit)
    coding = None if coded is None else _coding_of(coded)
    try:
        if arrived:
            # It came with the headers: there is nothing to wait for, so no timer is needed.
            body = content.read_nowait()
        else:
            async with asyncio.timeout(config.body_timeout):
                body = await request.read()
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {config.body_timeout:g} seconds.") from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit) from None
    except ConnectionError:
        raise ClientGone from None
    except web.RequestPayloadError as error:
        raise body_error(error) from None
    if len(body) > limit:
        raise _too_large(limit)
    return body if coding is None else await _inflate(body, coding, limit)


def _coding_of(header: str) -> str | None:
    """Return the coding that `Content-Encoding` names, or None. Raises `UnsupportedCoding`."""
    named = [name for part in header.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not named:
        return None
    coding = named[0].removeprefix("x-")
    if len(named) > 1 or coding not in ACCEPT_ENCODING.split(", "):
        shown = header if header.isprintable() and len(header) <= 40 else "that"
        raise UnsupportedCoding(f"The Content-Encoding {shown} is not supported: send gzip, deflate or none.")
    return coding


async def _inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Return the inflated body. Raises `MalformedBody` where it is broken or cut off, `ContentTooLarge` above the
    limit."""
    found: list[bytes] = []
    size = members = 0
    while body or not members:
        if members == _MEMBERS or (members and coding == "deflate"):
            raise MalformedBody(f"Something follows the end of the {coding} data.")
        inflater = zlib.decompressobj(_window(body, coding))
        while not inflater.eof:
            try:
                piece = inflater.decompress(body, min(_PIECE, limit + 1 - size))
            except zlib.error:
                raise MalformedBody(f"The body is not {coding} data, or was changed on its way.") from None
            body = inflater.unconsumed_tail
            size += len(piece)
            found.append(piece)
            if size > limit:
                raise _too_large(limit)
            if not piece and not body and not inflater.eof:
                raise MalformedBody(f"The {coding} data are incomplete: the body was cut off.")
            await asyncio.sleep(0)
        body = inflater.unused_data
        members += 1
    return b"".join(found)


def _window(body: bytes, coding: str) -> int:
    """Return the `wbits` of zlib. Many clients send deflate without the zlib header that RFC 9110 requires."""
    if coding == "gzip":
        return zlib.MAX_WBITS | 16
    return zlib.MAX_WBITS if body[:1] and body[0] & 0x0F == 8 else -zlib.MAX_WBITS


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than {limit:,} bytes; split the targets over several pushes.")
