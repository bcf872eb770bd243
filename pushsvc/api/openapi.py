"""The OpenAPI 3.1 document, made from the route table and from the structs that decode and encode, so that it is always
right."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from .. import __version__
from ..errors import RequestError
from ..model.address import Addresses
from ..problems import MEDIA_TYPE, Problem
from .call import Answer, Call
from .config import ApiConfig
from .devices.document import device_types
from .http.depth import MAX_DEPTH
from .http.params import JSON
from .pushes.batch import MOST
from .pushes.document import push_types
from .routes import CALLS

SHOWN: Final = [call for call in CALLS if call.in_document]
"""The calls in the document."""

STRUCTS: Final = {
    Problem,
    *(answer.body for call in SHOWN for answer in call.answers if answer.body is not None),
    *(call.document.schema for call in SHOWN if call.document is not None),
}
"""The bodies of these calls."""

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "alert": {
        "summary": "A visible notification, on both platforms",
        "value": {
            "to": {
                "tokens": [
                    {"platform": "apns", "token": "8f3c" * 16},
                    {"platform": "fcm", "token": "dQw4w9WgXcQ:APA91b" + "x" * 122},
                ]
            },
            "notification": {"title": "Order 7 shipped", "body": "Arrives Friday", "sound": "default"},
            "data": {"order": "7"},
            "ttl": 3600,
            "collapse": "order-7",
        },
    },
    "silent": {
        "summary": "A silent push with data for the app",
        "value": {
            "to": {"tokens": [{"platform": "apns", "token": "8f3c" * 16}]},
            "data": {"sync": "orders"},
            "silent": True,
            "lane": "bulk",
        },
    },
    "scheduled": {
        "summary": "A scheduled push",
        "value": {
            "to": {"tokens": [{"platform": "apns", "token": "8f3c" * 16}]},
            "notification": {"title": "The sale begins"},
            "send_at": "2026-12-01T09:00:00Z",
        },
    },
    "topic": {
        "summary": "A push to the subscribers of a topic",
        "value": {
            "to": {"topic": "news"},
            "notification": {"title": "Rain tonight", "body": "Take an umbrella"},
            "lane": "bulk",
        },
    },
    "where": {
        "summary": "A push to all devices that match an expression",
        "value": {
            "to": {"where": "tags.plan == 'pro' and locale in ('de', 'at') and last_seen > '30d'"},
            "notification": {"title": "Neu für Sie"},
        },
    },
    "activity": {
        "summary": "A Live Activity update for all subscribers of a broadcast channel",
        "value": {
            "to": {"tokens": [{"platform": "apns", "channel": "dHN0LXNyY2gtY2hubA=="}]},
            "live_activity": {"event": "update", "content_state": {"home": 1, "away": 0}},
        },
    },
    "override": {
        "summary": "A push with provider-specific fields",
        "value": {
            "to": {"tokens": [{"platform": "apns", "token": "8f3c" * 16}]},
            "overrides": {"apns": {"payload": {"aps": {"alert": {"loc-key": "GAME_PLAY", "loc-args": ["Jenna"]}}}}},
        },
    },
}

_EXAMPLES_OF: Final = {
    "post_push": EXAMPLES,
    "post_batch": {
        "two": {"summary": "Two pushes", "value": [EXAMPLES["alert"]["value"], EXAMPLES["topic"]["value"]]},
    },
    "put_device": {
        "phone": {
            "summary": "An iPhone with a user and tags",
            "value": {
                "platform": "apns",
                "token": "8f3c" * 16,
                "user": "u1",
                "tags": {"plan": "pro", "beta": True},
                "locale": "de-AT",
                "timezone": "Europe/Vienna",
                "app_version": "3.2.0",
            },
        },
    },
    "post_token": {"day": {"summary": "For a day", "value": {"ttl": 86400}}},
    "post_channel": {"frequent": {"summary": "For an event with many updates", "value": {"storage": "none"}}},
    "post_replay": {
        "outage": {
            "summary": "Deliveries that failed during an outage, at a limited rate",
            "value": {"reason": "ServiceUnavailable", "since": "2026-12-01T09:00:00Z", "rate": 100},
        },
    },
    "post_restore": {
        "mistake": {
            "summary": "Devices that were pruned while the wrong key was configured",
            "value": {"platform": "apns", "since": "2026-12-01T09:00:00Z", "until": "2026-12-01T10:00:00Z"},
        },
    },
    "post_admin_key": {
        "backend": {"summary": "For a backend", "value": {"name": "backend", "scopes": ["push", "devices"]}},
    },
    "post_admin_webhook_redeliver": {
        "outage": {"summary": "What was given up since an outage", "value": {"since": "2026-12-01T09:00:00Z"}},
    },
    "post_admin_preview": EXAMPLES,
    "post_admin_release": {"hour": {"summary": "For an hour", "value": {"route": "shop/apns", "for": 3600}}},
    "post_admin_keep": {"route": {"summary": "Of one route", "value": {"route": "shop/apns"}}},
    "post_admin_cut": {"phone": {"summary": "One device", "value": {"device_id": "phone-7"}}},
    "post_admin_drain": {"gateway": {"summary": "One gateway", "value": {"gateway": "host-4711-1f"}}},
    "import_admin_devices": {
        "phone": {
            "summary": "One device, as it was exported",
            "value": {
                "devices": [
                    {
                        "id": "phone-7",
                        "platform": "apns",
                        "token": "8f3c" * 16,
                        "user": "u1",
                        "registered_at": "2026-12-01T09:00:00.000Z",
                        "topics": ["news"],
                    }
                ]
            },
        },
    },
    "post_admin_cleanup": {"count": {"summary": "Only count", "value": {"dry_run": True}}},
}

_INTRODUCTION: Final = """\
Push notifications over HTTP: one document in, APNs and FCM out, every delivery counted.

A push is answered with 202 only after it is stored in Redis. Errors are RFC 9457 problem documents that list every
fault of the request. A field with the value `null` counts as left out. Unknown fields and unknown query parameters are
errors. If a name occurs twice in one object, the last value counts. Every response has the header `X-Request-Id`, with
the value from the request if there was one."""


def build(*, addresses: Addresses, config: ApiConfig) -> dict[str, Any]:
    """Return the document, as a JSON object, for a server of the platforms with these addresses and of these bounds."""
    # These have fields that the platforms declare.
    push = push_types(addresses, config.max_targets).document
    extended = {struct.__name__: struct for struct in (push, *device_types(addresses))}
    schemas = _schemas(each for each in STRUCTS if each.__name__ not in extended) | _schemas(extended.values())
    _refine(schemas, addresses)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushsvc",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "parameters": _SHARED,
            "responses": {problem.__name__: _problem(problem) for problem in _PROBLEMS},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of one app: `Authorization: Bearer <key>`.",
                }
            },
        },
    }


def _schemas(structs: Iterable[type]) -> dict[str, Any]:
    return msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")[1]


def _refine(schemas: dict[str, Any], addresses: Addresses) -> None:
    """Add what the structs cannot express: the names of platforms, and which fields need one another."""
    to = schemas["To"]
    to["properties"]["all"] = {"type": "boolean", "description": to["properties"]["all"]["description"]}
    push = schemas["PushDocument"]
    push["properties"]["overrides"]["anyOf"] = [
        {
            "type": "object",
            "properties": {name: {"type": "object"} for name in sorted(addresses.platforms)},
            "additionalProperties": False,
        },
        {"type": "null"},
    ]
    push["properties"]["overrides"]["description"] += f" At most {MAX_DEPTH} levels deep."
    named = sorted(name for name, kinds in addresses.targets.kinds.items() if kinds)
    for name, platforms in (("TokenTarget", named), ("DeviceDocument", sorted(addresses.platforms))):
        platform = schemas[name]["properties"]["platform"]
        platform["enum"] = platforms
        del platform["examples"]
    wholes = (push["properties"]["ttl"], schemas["Notification"]["properties"]["badge"])
    for whole in (*wholes, schemas["TokenDocument"]["properties"]["ttl"]):
        # 3600.0 is an integer to JSON Schema (2020-12 validation, section 6.1.1).
        whole["anyOf"] = [option for option in whole["anyOf"] if option.get("type") != "number"]
    for schema in schemas.values():
        _for_generators(schema)


def _for_generators(schema: Any) -> None:
    """Leave out what is right by JSON Schema and makes generated clients wrong.

    An `anyOf` beside `properties` makes a generator forget the properties, an `enum` without a `type` is anything to
    it, and a `default` makes an optional field a required one. So "one of these is needed" is said in words, and 422
    says it with the place.
    """
    if isinstance(schema, list):
        for item in schema:
            _for_generators(item)
    elif isinstance(schema, dict):
        if schema.get("default", 0) is None:
            del schema["default"]
        if isinstance(schema.get("enum"), list):
            schema.setdefault("type", "string")
        for item in schema.values():
            _for_generators(item)


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for call in SHOWN:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return paths


def _tag_of(call: Call) -> str:
    return next((name for name in _TAGS if call.path.removeprefix("/v1/").startswith(name.rstrip("s"))), "service")


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": call.name, "summary": call.summary, "tags": [_tag_of(call)]}
    notes = [call.description] if call.description else []
    if call.keyed:
        notes.append("Needs a key with the scope " + " or ".join(f"`{scope}`" for scope in call.scopes) + ".")
    if notes:
        operation["description"] = " ".join(notes)
    operation["security"] = [{"key": []}] if call.keyed else [{}, {"key": []}] if call.scopes else []
    if parameters := [_place(name, parameter) for name, parameter in _parameters(call)]:
        operation["parameters"] = parameters
    document = call.document
    if document is not None and document.lines:
        many = {"type": "array", "minItems": 1, "maxItems": MOST, "items": _ref(document.schema)}
        # Lines are said in words alone: a generator that knows no `application/x-ndjson` leaves the whole call out.
        operation["requestBody"] = {
            "required": True,
            "description": "JSON in UTF-8: a list of documents. With the `Content-Type` "
            f"`{document.lines}`, one document per line.",
            "content": {JSON: {"schema": many, "examples": _EXAMPLES_OF[call.name]}},
        }
    elif document is not None:
        operation["requestBody"] = {
            "required": not document.optional,
            "description": "JSON in UTF-8. `Content-Type` must be `application/json` or left out.",
            "content": {JSON: {"schema": _ref(document.schema), "examples": _EXAMPLES_OF[call.name]}},
        }
    operation["responses"] = _responses(call)
    return operation


def _parameters(call: Call) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameters of a call, each with the name that it has among the shared ones."""
    found = [
        {"name": param.name, "in": "path", "required": True, "description": param.description, "schema": param.schema()}
        for param in call.names
    ]
    found += [
        {"name": param.name, "in": place, "description": param.description, "schema": param.schema()}
        for place, params in (("query", call.params), ("header", call.headers))
        for param in params
    ]
    return [("".join(re.findall(r"\w", f"{each['in']}_{each['name']}".title())), each) for each in found]


def _place(name: str, parameter: dict[str, Any]) -> dict[str, Any]:
    """Return the parameter, or a reference where several calls have it."""
    return {"$ref": f"#/components/parameters/{name}"} if _SHARED.get(name) == parameter else parameter


def _shared() -> dict[str, dict[str, Any]]:
    """Return the parameters that more than one call has, unless different ones have the same name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for call in SHOWN:
        for name, parameter in _parameters(call):
            found.setdefault(name, []).append(parameter)
    return {
        name: most[0] for name, most in sorted(found.items()) if len(most) > 1 and all(each == most[0] for each in most)
    }


def _responses(call: Call) -> dict[str, Any]:
    responses = {str(answer.status): _good(answer) for answer in call.answers}
    for problem in call.problems:
        responses[str(problem.status)] = {"$ref": f"#/components/responses/{problem.__name__}"}
    return responses


def _good(answer: Answer) -> dict[str, Any]:
    good: dict[str, Any] = {"description": answer.description}
    if answer.status != 204:
        good["content"] = {answer.media: {"schema": _answer_schema(answer)}}
    if answer.headers:
        good["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}} for name, text in answer.headers
        }
    return good


def _answer_schema(answer: Answer) -> dict[str, Any]:
    if answer.body is not None:
        return _ref(answer.body)
    return {"type": "object"} if answer.media == JSON else {"type": "string"}


def _problem(problem: type[RequestError]) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": f"{problem.title}.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    header = {401: "WWW-Authenticate", 403: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(
        problem.status
    )
    if header is not None:
        kind = "integer" if header == "Retry-After" else "string"
        # 403 is answered without it where the key belongs to another app: no scope would help.
        needed = problem.status != 403
        response["headers"] = {header: {"description": _HEADERS[header], "required": needed, "schema": {"type": kind}}}
    return response


_SHARED: Final = _shared()
"""Parameters that several calls have, by name."""
_TAGS: Final = {
    "push": "Send, follow and cancel pushes.",
    "feedback": "Tokens that the providers reported as dead or suspect.",
    "failed": "Dead letters and their replay.",
    "admin": "The state of an app, its lists, and the actions of its operator.",
    "devices": "Registered devices.",
    "users": "Devices of a user, and their erasure.",
    "topics": "Topics and their subscribers.",
    "suppressions": "Tokens that nothing is sent to, because a provider reported them as dead.",
    "channels": "APNs broadcast channels.",
    "live": "Connections of the live channel.",
    "service": "Health, metrics and documentation of the service.",
}
"""By the beginning of the path; the last one has all other calls."""
_PROBLEMS: Final = sorted({problem for call in SHOWN for problem in call.problems}, key=lambda each: each.__name__)
_HEADERS: Final = {
    "WWW-Authenticate": "How to authenticate (RFC 6750).",
    "Retry-After": "The number of seconds to wait before the next try.",
}


def _ref(struct: type) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
