"""URLs that are requested exactly as they are written.

yarl, and so aiohttp, decodes characters that need no encoding: `/a%40b?sig=abc%3D` becomes `/a@b?sig=abc%3D`. For a
server that signs or compares the URL this is a different URL: an encoded reserved character is not the same as the
character (https://www.rfc-editor.org/rfc/rfc3986#section-2.2).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from yarl import URL

_TARGET: Final = re.compile(r"[^:/?#]+://[^/?#]*([^#]*)")


def exact_url(text: str) -> URL:
    """Return `text` as a URL that keeps path and query byte for byte.

    Only characters that a request line must not contain are encoded, as UTF-8. An international host becomes its ASCII
    form. Raises `ValueError` if it is not an absolute URL.
    """
    found = _TARGET.match(text)
    if found is None:
        raise ValueError("not an absolute URL")
    target = re.sub(r"[^!-~]+", lambda part: quote(part[0]), found[1])
    slash = "" if target.startswith("/") else "/"
    return URL(f"{URL(text).origin()}{slash}{target}", encoded=True)
