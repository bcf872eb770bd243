"""The pages of the guide, Markdown in `pushsvc/docs`, as HTML without scripts and external resources."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

from . import docs

_FOLDER: Final = Path(__file__).parents[1] / "docs"
_BASE: Final = "/docs/guide"
_ENTRY: Final = re.compile(r"\[([^]]+)\]\(([\w/]+\.md)\)")


@cache
def pages() -> Mapping[str, bytes]:
    """Return every page by its place in the guide, such as `reference/push.md`. They are rendered once."""
    found = {path.relative_to(_FOLDER).as_posix(): path for path in sorted(_FOLDER.rglob("*.md"))}
    texts = {place: path.read_text(encoding="utf-8") for place, path in found.items()}
    nav = _nav(texts["index.md"])
    return {place: _page(place, text, nav).encode() for place, text in texts.items()}


def _nav(index: str) -> str:
    """Return the navigation: the headings and links of the index."""
    parts = ['<a href="/docs">API</a>', f'<a href="{_BASE}">All pages</a>']
    for line in index.splitlines():
        if line.startswith("## "):
            parts.append(f"<h2>{escape(line[3:])}</h2>")
        parts += [f'<a href="{_BASE}/{place}">{escape(title)}</a>' for title, place in _ENTRY.findall(line)]
    return "\n".join(parts)


def _page(place: str, text: str, nav: str) -> str:
    # Only a process that is asked for the guide pays for the library.
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[at + 1].content))
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("href", _href(place, str(child.attrGet("href"))))
    main: Any = markdown.renderer.render(tokens, markdown.options, {})
    main = main.replace("<table>", "<div class=scroll><table>").replace("</table>", "</table></div>")
    return docs.page(f"{escape(text.partition(chr(10))[0].removeprefix('# '))} · pushsvc", nav, main)


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as forges make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _href(place: str, link: str) -> str:
    """Return where a link of a page leads from the served guide: a relative one is to another page."""
    if "://" in link or link.startswith(("#", "mailto:")):
        return link
    return posixpath.normpath(posixpath.join(_BASE, posixpath.dirname(place), link))
