from kvapi.v1 import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Progress(_message.Message):
    __slots__ = ("event_loop", "disk", "disk_wait_ms")
    EVENT_LOOP_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    DISK_WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    event_loop: int
    disk: int
    disk_wait_ms: int
    def __init__(self, event_loop: _Optional[int] = ..., disk: _Optional[int] = ..., disk_wait_ms: _Optional[int] = ...) -> None: ...

class ShardLead(_message.Message):
    __slots__ = ("shard", "term", "commit", "match", "quorum_age_ms")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    QUORUM_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    term: int
    commit: int
    match: int
    quorum_age_ms: int
    def __init__(self, shard: _Optional[int] = ..., term: _Optional[int] = ..., commit: _Optional[int] = ..., match: _Optional[int] = ..., quorum_age_ms: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("message", "round", "leads", "echo", "progress", "state")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    round: int
    leads: _containers.RepeatedCompositeFieldContainer[ShardLead]
    echo: int
    progress: Progress
    state: _message_pb2.NodeState
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., round: _Optional[int] = ..., leads: _Optional[_Iterable[_Union[ShardLead, _Mapping]]] = ..., echo: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., state: _Optional[_Union[_message_pb2.NodeState, str]] = ...) -> None: ...

class ShardAck(_message.Message):
    __slots__ = ("shard", "term", "accepted")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    shard: int
    term: int
    accepted: bool
    def __init__(self, shard: _Optional[int] = ..., term: _Optional[int] = ..., accepted: bool = ...) -> None: ...

class HeartbeatResponse(_message.Message):
    __slots__ = ("message", "round", "acks", "stamp", "progress", "state")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    STAMP_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    round: int
    acks: _containers.RepeatedCompositeFieldContainer[ShardAck]
    stamp: int
    progress: Progress
    state: _message_pb2.NodeState
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., round: _Optional[int] = ..., acks: _Optional[_Iterable[_Union[ShardAck, _Mapping]]] = ..., stamp: _Optional[int] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., state: _Optional[_Union[_message_pb2.NodeState, str]] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("message", "target")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    target: str
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., target: _Optional[str] = ...) -> None: ...

class ProbeResponse(_message.Message):
    __slots__ = ("message", "alive", "incarnation")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    alive: bool
    incarnation: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., alive: bool = ..., incarnation: _Optional[int] = ...) -> None: ...
