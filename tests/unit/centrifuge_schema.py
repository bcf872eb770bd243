"""The messages of the official schema of the client protocol, made from its text by the `protobuf` package.

`golden/centrifuge/client.proto` is definitions/client.proto of github.com/centrifugal/protocol.
Its licence is beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PROTO = Path(__file__).parent / "golden" / "centrifuge" / "client.proto"
_PACKAGE = "centrifugal.centrifuge.protocol"
_FIELD = re.compile(r"(?:(repeated) )?(?:map<string, *(\w+)>|(\w+)) (\w+) *= *(\d+) *;")
_SCALARS = {"bool", "bytes", "int32", "int64", "sint64", "string", "uint32", "uint64"}


def _field(message: Any, kind: str, name: str, number: int, repeated: bool) -> None:
    field = message.field.add(name=name, number=number, label=3 if repeated else 1)
    if kind in _SCALARS:
        field.type = getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{kind.upper()}")
    else:
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


def _messages() -> dict[str, Any]:
    text = re.sub(r"//[^\n]*", "", _PROTO.read_text())
    file = descriptor_pb2.FileDescriptorProto(name="client.proto", package=_PACKAGE, syntax="proto3")
    for name, body in re.findall(r"message (\w+) *\{([^}]*)\}", text):
        message = file.message_type.add(name=name)
        for repeated, value, kind, field, number in _FIELD.findall(re.sub(r"reserved[^;]*;", "", body)):
            if value:
                entry_name = field.title().replace("_", "") + "Entry"
                entry = message.nested_type.add(name=entry_name)
                entry.options.map_entry = True
                _field(entry, "string", "key", 1, False)
                _field(entry, value, "value", 2, False)
                _field(message, f"{name}.{entry_name}", field, int(number), True)
            else:
                _field(message, kind, field, int(number), bool(repeated))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


MESSAGES = _messages()
"""The classes of all messages by name."""
Command = MESSAGES["Command"]
Reply = MESSAGES["Reply"]


def delimited(*messages: Any) -> bytes:
    """Return messages as one transport message."""
    parts = []
    for message in messages:
        data = message.SerializeToString()
        size = len(data)
        while size >= 0x80:
            parts.append(bytes([size & 0x7F | 0x80]))
            size >>= 7
        parts.append(bytes([size]) + data)
    return b"".join(parts)


def replies(data: bytes) -> list[Any]:
    """Return the replies of one transport message."""
    found, at = [], 0
    while at < len(data):
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert at + size <= len(data)
        found.append(Reply.FromString(data[at : at + size]))
        at += size
    return found
