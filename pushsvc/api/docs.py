"""The OpenAPI document as one HTML page without external resources. Its script adds a search and forms that make the
calls. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

_TEMPLATE: Final = Path(__file__).with_name("docs.html")
_CODE: Final = re.compile(r"`([^`]+)`")


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document of `openapi.build`."""
    info = document["info"]
    calls = [(path, verb, call) for path, verbs in document["paths"].items() for verb, call in verbs.items()]
    schemas = document["components"]["schemas"]
    groups = [
        (tag["name"], tag["description"], [each for each in calls if tag["name"] in each[2]["tags"]])
        for tag in document["tags"]
    ]
    nav = [
        part
        for name, _, members in groups
        for part in (
            f"<h2>{escape(name)}</h2>",
            *(
                f'<a href="#{call["operationId"]}">{_verb(verb)}<span>{_breaking(path)}</span></a>'
                for path, verb, call in members
            ),
        )
    ]
    nav += [
        "<h2>Documents</h2>",
        *(f'<a href="#{name}">{name}</a>' for name in schemas),
    ]
    main = [
        f"<h1>{escape(info['title'])} <small class=soft>{escape(info['version'])}</small></h1>",
        _prose(info["description"]),
        '<p><a href="/docs/guide">Guide</a> · <a href="openapi.json">openapi.json</a></p>',
        *(
            part
            for name, summary, members in groups
            for part in (
                f"<h2>{escape(name.capitalize())}</h2><p class=soft>{_text(summary)}</p>",
                *(_call(path, verb, call, document["components"]) for path, verb, call in members),
            )
        ),
        "<h2>Documents</h2>",
        *(_schema(name, schema) for name, schema in schemas.items()),
    ]
    script = '<script type="module" src="/docs/page.js"></script>'
    return page(f"{escape(info['title'])} API", "\n".join(nav), "\n".join(main), head=script)


def page(title: str, nav: str, main: str, *, head: str = "") -> str:
    """Return a page of the documentation from its parts, which are HTML."""
    parts = {"title": title, "nav": nav, "main": main, "head": head}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _breaking(path: str) -> str:
    """Return a path that a narrow column breaks before a slash, not within a word."""
    return escape(path).replace("/", "<wbr>/")


def _verb(verb: str) -> str:
    return f'<span class="verb {verb}">{verb.upper()}</span>'


def _text(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _prose(text: str) -> str:
    return "".join(f"<p>{_text(paragraph)}</p>" for paragraph in text.split("\n\n"))


def _call(path: str, verb: str, call: dict[str, Any], shared: dict[str, Any]) -> str:
    parts = [
        f'<section class=card id="{call["operationId"]}">',
        f"<h3>{_verb(verb)} <code>{escape(path)}</code></h3>",
        f"<p>{_text(call['summary'])}</p>",
    ]
    if "description" in call:
        parts.append(f"<p class=soft>{_text(call['description'])}</p>")
    if parameters := call.get("parameters"):
        rows = [
            (f"<code>{escape(item['name'])}</code>", _type(item["schema"]), _text(item["description"]))
            for item in (_followed(each, shared["parameters"]) for each in parameters)
        ]
        parts.append("<h4>Parameters</h4>" + _table(("name", "type", "meaning"), rows))
    if body := call.get("requestBody"):
        parts.append(f"<h4>Body</h4><p>{_text(body['description'])}</p>")
        for media in body["content"].values():
            parts.append(f"<p>{_type(media['schema'])}</p>")
            for example in media.get("examples", {}).values():
                shown = escape(json.dumps(example["value"], indent=2))
                parts.append(f"<details><summary>{escape(example['summary'])}</summary><pre>{shown}</pre></details>")
    shown = escape(curl(path, verb, call))
    parts.append(f"<details><summary>With curl</summary><pre>{shown}</pre></details>")
    answers = [(status, _followed(item, shared["responses"])) for status, item in call["responses"].items()]
    rows = [
        (
            f"<code>{status}</code>",
            " ".join(
                f"{_type(media['schema'])} <span class=soft>{kind}</span>"
                for kind, media in item.get("content", {}).items()
            ),
            _text(item["description"]) + _headers(item.get("headers", {})),
        )
        for status, item in answers
    ]
    parts.append("<h4>Answers</h4>" + _table(("status", "body", "meaning"), rows))
    return "".join([*parts, "</section>"])


def _followed(item: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Return the item, or the shared one that it refers to."""
    found: dict[str, Any] = shared[item["$ref"].rpartition("/")[2]] if "$ref" in item else item
    return found


def curl(path: str, verb: str, call: dict[str, Any]) -> str:
    """Return the call as a curl command, with its first example, for a shell with `PUSHSVC_URL` and `PUSHSVC_KEY`."""
    url = re.sub(r"\{(\w+)\}", lambda name: name[1].upper(), path)
    lines = [f'curl -X {verb.upper()} "$PUSHSVC_URL{url}"']
    if call["security"]:
        lines.append('-H "Authorization: Bearer $PUSHSVC_KEY"')
    for media, body in call.get("requestBody", {}).get("content", {}).items():
        examples = [example["value"] for example in body.get("examples", {}).values()]
        text = json.dumps(examples[0] if examples else [], ensure_ascii=False)
        quoted = text.replace("'", "'\\''")
        lines += [f"-H 'Content-Type: {media}'", f"-d '{quoted}'"]
    return " \\\n  ".join(lines)


def _headers(headers: dict[str, Any]) -> str:
    return "".join(
        f"<br><code>{escape(name)}</code> <span class=soft>{_text(header['description'])}</span>"
        for name, header in headers.items()
    )


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (
            f"<code>{escape(field)}</code>" + (" <span class=soft>required</span>" if field in required else ""),
            _type(item),
            _text(_meaning(item)),
        )
        for field, item in schema["properties"].items()
    ]
    return (
        f"<section class=card id={name}><h3>{name}</h3><p>{_text(schema.get('description', ''))}</p>"
        + _table(("field", "type", "meaning"), rows)
        + "</section>"
    )


def _meaning(schema: dict[str, Any]) -> str:
    return str(schema.get("description", ""))


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON Schema in a few words, with links to the documents that it refers to."""
    match schema:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": list(options)}:
            return " or ".join(_type(option) for option in options if option != {"type": "null"})
        case {"enum": list(values)}:
            return " | ".join(f"<code>{escape(str(value))}</code>" for value in values if value is not None)
        case {"type": "array", "items": dict(items)}:
            most = f", at most {schema['maxItems']:,}" if "maxItems" in schema else ""
            return f"list of {_type(items)}{most}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values) or 'anything'}"
        case {"type": str(kind), "minimum": int(least), "maximum": int(most)}:
            return f"{kind}, {least:,} to {most:,}"
        case {"type": str(kind)}:
            return escape(kind + (f", {schema['format']}" if "format" in schema else ""))
        case _:
            return ""


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
