"""URLs that are called exactly as they are written.

yarl, and so aiohttp, decodes what need not be encoded: `/a%40b?sig=abc%3D` becomes `/a@b?sig=abc%3D`. To a server that
signs or compares the URL that is another one: an encoded reserved character is not the same as the character
(https://www.rfc-editor.org/rfc/rfc3986#section-2.2).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from yarl import URL

_TARGET: Final = re.compile(r"[^:/?#]+://[^/?#]*([^#]*)")


def exact_url(text: str) -> URL:
    """`text` with path and query byte for byte, except for characters that no request line may have, which are encoded
    as UTF-8. A host in other scripts becomes its ASCII form. Raises ValueError for what is no absolute URL.
    """
    found = _TARGET.match(text)
    if found is None:
        raise ValueError("not an absolute URL")
    target = re.sub(r"[^!-~]+", lambda part: quote(part[0]), found[1])
    slash = "" if target.startswith("/") else "/"
    return URL(f"{URL(text).origin()}{slash}{target}", encoded=True)
