"""Arbitrary protobufs of a type, from its descriptor: every field set or not, with what is most likely to hurt.

Owns: which values are hostile. Never: knows what a message means; `lies` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import google_crc32c
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2, replication_pb2

DEPTH_MAX = 5
REPEATED_MAX = 4
U32, U64 = 2**32 - 1, 2**64 - 1

_NUMBERS_64 = (0, 1, 2, 3, 5, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, U64 - 1, U64)
_NUMBERS_32 = (0, 1, 2, 3, 5, 255, 2**16, 2**31 - 1, 2**31, U32)
_NAMES = ("n1", "n2", "n3", "", "n9", "N1", "x" * 300, "\0", "n1\0", "é" * 40, "..", "0.n1.1.1", "1.n2.1.2")
_KEYS = (b"", b"a", b"b", b"c", b"{t}a", b"{t}b", b"\0", b"\xff", b"\xff" * 3, b"k" * 400, b"k" * 401, b"k" * 2000)
_IDS = (b"", b"i" * 16, b"j" * 16, bytes(16), b"i" * 15, b"s" * 600)

numbers_64 = st.sampled_from(_NUMBERS_64) | st.integers(0, U64) | st.integers(0, 40)
numbers_32 = st.sampled_from(_NUMBERS_32) | st.integers(0, U32) | st.integers(0, 4)
signed_64 = numbers_64.map(lambda n: n - 2**63)
signed_32 = numbers_32.map(lambda n: n - 2**31)
names = st.sampled_from(_NAMES) | st.text(max_size=8)
texts = st.sampled_from(("", "a", "b", "x" * 500, "\0", "é")) | st.text(max_size=8)
keys = st.sampled_from(_KEYS) | st.binary(max_size=6)
blobs = st.sampled_from((b"", b"v", bytes(100), b"v" * 5000)) | st.binary(max_size=30)
_few = st.sampled_from((0, 1)) | st.sampled_from((0, 1, 2, 3, U32))

_SCALARS: Mapping[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT64: numbers_64,
    FieldDescriptor.TYPE_FIXED64: numbers_64,
    FieldDescriptor.TYPE_UINT32: numbers_32,
    FieldDescriptor.TYPE_FIXED32: numbers_32,
    FieldDescriptor.TYPE_INT64: signed_64,
    FieldDescriptor.TYPE_INT32: signed_32,
    FieldDescriptor.TYPE_DOUBLE: st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BYTES: blobs,
}
_BY_NAME: Mapping[str, st.SearchStrategy[Any]] = {
    "shard": _few,
    "anchor": _few,
    "participants": _few,
    "unresolved": _few,
    "node": names,
    "name": names,
    "target": names,
    "from_node": names,
    "to_node": names,
    "key": keys,
    "prefix": keys,
    "start_text": texts,
    "page_token": keys,
    "id": st.sampled_from(_IDS),
    "limit": numbers_32,
    "traceparent": texts | st.just("00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
}
"""Fields of these names get values that reach further than any."""


def messages(kind: type[Message], fixed: Mapping[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Messages of a generated class. `fixed`: strategies for fields of any message inside, by
    "Message.field" or "field" (of scalars), or "Message" (of the type)."""
    return _message(kind.DESCRIPTOR, {**_meaningful(), **(fixed or {})}, DEPTH_MAX)


def _meaningful() -> dict[str, st.SearchStrategy[Any]]:
    """Bytes that are messages themselves, mostly."""
    command = st.deferred(lambda: _message(replication_pb2.Command.DESCRIPTOR, {}, DEPTH_MAX))
    token = st.deferred(lambda: _message(kv_pb2.SessionToken.DESCRIPTOR, {}, DEPTH_MAX))
    as_token = token.map(lambda message: message.SerializeToString()) | st.just(b"") | blobs
    return {
        "LogEntry.data": command.map(lambda message: message.SerializeToString()) | blobs,
        **{f"{name}.session": as_token for name in ("PutRequest", "GetRequest", "DeleteRequest", "RangeRequest", "TxnRequest")},
        "RequestId.session": st.sampled_from(_IDS),
        "TransactionId.start": numbers_64,
    }


@st.composite
def _message(draw: st.DrawFn, descriptor: Descriptor, fixed: Mapping[str, st.SearchStrategy[Any]], depth: int) -> Message:
    message = message_factory.GetMessageClass(descriptor)()
    chosen = {oneof.name: draw(st.integers(0, len(oneof.fields))) for oneof in descriptor.oneofs}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None:
            if chosen[oneof.name] != oneof.fields.index(field):
                continue
        elif draw(st.integers(0, 9)) == 0:
            continue
        if field.is_repeated:
            _fill_repeated(draw, message, field, fixed, depth)
        elif field.message_type is not None:
            if depth > 0:
                getattr(message, field.name).CopyFrom(draw(_value(field, fixed, depth - 1)))
                getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, draw(_value(field, fixed, depth)))
    if descriptor.name == "InstallSnapshotRequest" and draw(st.booleans()):
        message.crc32c = google_crc32c.value(message.data)  # type: ignore[attr-defined]
    return message


def _fill_repeated(draw: st.DrawFn, message: Message, field: FieldDescriptor, fixed: Any, depth: int) -> None:
    if field.message_type is not None and (depth <= 0 or field.message_type.GetOptions().map_entry):
        return
    values = draw(st.lists(_value(field, fixed, depth - 1), max_size=REPEATED_MAX))
    if values and draw(st.integers(0, 3)) == 0:
        values.append(values[0])
    getattr(message, field.name).extend(values)


def _value(field: FieldDescriptor, fixed: Mapping[str, st.SearchStrategy[Any]], depth: int) -> st.SearchStrategy[Any]:
    known = fixed.get(f"{field.containing_type.name}.{field.name}")
    if known is None:
        known = fixed.get(field.name if field.message_type is None else field.message_type.name)
    if known is not None:
        return known
    if field.message_type is not None:
        return _message(field.message_type, fixed, depth)
    if field.enum_type is not None:
        return st.sampled_from([*(value.number for value in field.enum_type.values), 77, 2**31 - 1, -1])
    scalar = _SCALARS[field.type]
    hint = _BY_NAME.get(field.name)
    return hint if hint is not None and _matches(field, hint) else scalar


def _matches(field: FieldDescriptor, hint: st.SearchStrategy[Any]) -> bool:
    """Whether the values of a hint by name are of the field's type: an `id` may be a number or bytes."""
    is_bytes = hint is keys or hint is _BY_NAME["id"]
    is_text = hint is names or hint is texts or hint is _BY_NAME["traceparent"]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return is_bytes
    if field.type == FieldDescriptor.TYPE_STRING:
        return is_text
    return not is_bytes and not is_text
