"""A class name stands for one thing: who reads it knows which one is meant."""

from __future__ import annotations

import ast
from collections import defaultdict

from ..sources import MODULES, PACKAGE, nodes_of

SHARED = {
    # name: why more than one module has it
    "Channel": "a broadcast channel, and the document of the API that asks for one",
    "Config": "a fixed name of every provider's package: its section of the configuration",
    "Connection": "one of the HTTP/2 client, one of the API's server; neither knows the other",
    "DeadLetter": "what the store keeps, and the document of the API that shows it",
    "Delivery": "one notification to one target, and the document of the API that shows it",
    "LiveActivity": "a part of a push, and the document of the API that asks for one",
    "Notification": "a part of a push, and the document of the API that asks for one",
    "Request": "what the HTTP/2 client sends, and what the API receives",
    "Response": "what the HTTP/2 client receives, and what the API sends",
    "Store": "the port, and Redis behind it",
    "Unavailable": "an outcome of a delivery, and the HTTP error of the same name",
}


def test_no_class_name_is_given_twice_without_a_reason() -> None:
    """Private classes are their module's own, the simulator names what it imitates as that is named, and the client of
    the live channel and that of the API have no other part of the service beside them, and name what it names."""
    modules: defaultdict[str, set[str]] = defaultdict(set)
    for file in MODULES:
        place = file.relative_to(PACKAGE)
        if place.parts[0] in ("lab", "client", "live_client"):
            continue
        for node in nodes_of(file):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].add(str(place))
    twice = {name: sorted(places) for name, places in modules.items() if len(places) > 1 and name not in SHARED}
    assert twice == {}
