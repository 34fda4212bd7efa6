from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MessageType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MESSAGE_TYPE_UNSPECIFIED: _ClassVar[MessageType]
    MESSAGE_TYPE_HEARTBEAT: _ClassVar[MessageType]
    MESSAGE_TYPE_DATA: _ClassVar[MessageType]
    MESSAGE_TYPE_CONTROL: _ClassVar[MessageType]
    MESSAGE_TYPE_ELECTION: _ClassVar[MessageType]

class NodeState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_STATE_UNSPECIFIED: _ClassVar[NodeState]
    NODE_STATE_ACTIVE: _ClassVar[NodeState]
    NODE_STATE_INACTIVE: _ClassVar[NodeState]
    NODE_STATE_FAILED: _ClassVar[NodeState]
    NODE_STATE_RECOVERING: _ClassVar[NodeState]
MESSAGE_TYPE_UNSPECIFIED: MessageType
MESSAGE_TYPE_HEARTBEAT: MessageType
MESSAGE_TYPE_DATA: MessageType
MESSAGE_TYPE_CONTROL: MessageType
MESSAGE_TYPE_ELECTION: MessageType
NODE_STATE_UNSPECIFIED: NodeState
NODE_STATE_ACTIVE: NodeState
NODE_STATE_INACTIVE: NodeState
NODE_STATE_FAILED: NodeState
NODE_STATE_RECOVERING: NodeState

class TraceContext(_message.Message):
    __slots__ = ("traceparent", "tracestate")
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    traceparent: str
    tracestate: str
    def __init__(self, traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "from_node", "to_node", "type", "sent_at", "trace", "cluster_id", "protocol_version", "from_incarnation", "from_uid")
    ID_FIELD_NUMBER: _ClassVar[int]
    FROM_NODE_FIELD_NUMBER: _ClassVar[int]
    TO_NODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_INCARNATION_FIELD_NUMBER: _ClassVar[int]
    FROM_UID_FIELD_NUMBER: _ClassVar[int]
    id: int
    from_node: str
    to_node: str
    type: MessageType
    sent_at: int
    trace: TraceContext
    cluster_id: str
    protocol_version: int
    from_incarnation: int
    from_uid: str
    def __init__(self, id: _Optional[int] = ..., from_node: _Optional[str] = ..., to_node: _Optional[str] = ..., type: _Optional[_Union[MessageType, str]] = ..., sent_at: _Optional[int] = ..., trace: _Optional[_Union[TraceContext, _Mapping]] = ..., cluster_id: _Optional[str] = ..., protocol_version: _Optional[int] = ..., from_incarnation: _Optional[int] = ..., from_uid: _Optional[str] = ...) -> None: ...
