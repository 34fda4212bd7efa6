from kvapi.v1 import message_pb2 as _message_pb2
from kvapi.v1 import replication_pb2 as _replication_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransactionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSACTION_STATE_UNSPECIFIED: _ClassVar[TransactionState]
    TRANSACTION_STATE_INIT: _ClassVar[TransactionState]
    TRANSACTION_STATE_PREPARING: _ClassVar[TransactionState]
    TRANSACTION_STATE_PREPARED: _ClassVar[TransactionState]
    TRANSACTION_STATE_COMMITTING: _ClassVar[TransactionState]
    TRANSACTION_STATE_COMMITTED: _ClassVar[TransactionState]
    TRANSACTION_STATE_ABORTED: _ClassVar[TransactionState]
    TRANSACTION_STATE_FAILED: _ClassVar[TransactionState]
TRANSACTION_STATE_UNSPECIFIED: TransactionState
TRANSACTION_STATE_INIT: TransactionState
TRANSACTION_STATE_PREPARING: TransactionState
TRANSACTION_STATE_PREPARED: TransactionState
TRANSACTION_STATE_COMMITTING: TransactionState
TRANSACTION_STATE_COMMITTED: TransactionState
TRANSACTION_STATE_ABORTED: TransactionState
TRANSACTION_STATE_FAILED: TransactionState

class TransactionId(_message.Message):
    __slots__ = ("start", "id")
    START_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    start: int
    id: bytes
    def __init__(self, start: _Optional[int] = ..., id: _Optional[bytes] = ...) -> None: ...

class ReadVersion(_message.Message):
    __slots__ = ("key", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    revision: int
    def __init__(self, key: _Optional[bytes] = ..., revision: _Optional[int] = ...) -> None: ...

class TransactionWrite(_message.Message):
    __slots__ = ("put", "delete")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    put: _replication_pb2.PutCommand
    delete: _replication_pb2.DeleteCommand
    def __init__(self, put: _Optional[_Union[_replication_pb2.PutCommand, _Mapping]] = ..., delete: _Optional[_Union[_replication_pb2.DeleteCommand, _Mapping]] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("message", "transaction", "shard", "anchor", "participants", "reads", "writes")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    shard: int
    anchor: int
    participants: _containers.RepeatedScalarFieldContainer[int]
    reads: _containers.RepeatedCompositeFieldContainer[ReadVersion]
    writes: _containers.RepeatedCompositeFieldContainer[TransactionWrite]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., shard: _Optional[int] = ..., anchor: _Optional[int] = ..., participants: _Optional[_Iterable[int]] = ..., reads: _Optional[_Iterable[_Union[ReadVersion, _Mapping]]] = ..., writes: _Optional[_Iterable[_Union[TransactionWrite, _Mapping]]] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("message", "state", "why")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    why: str
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ..., why: _Optional[str] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("message", "transaction", "shard", "decision")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    shard: int
    decision: TransactionState
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., shard: _Optional[int] = ..., decision: _Optional[_Union[TransactionState, str]] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("message", "state")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ...) -> None: ...

class TwoPhaseCommitStatusRequest(_message.Message):
    __slots__ = ("message", "transaction", "anchor", "push")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    anchor: int
    push: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., anchor: _Optional[int] = ..., push: bool = ...) -> None: ...

class TwoPhaseCommitStatusResponse(_message.Message):
    __slots__ = ("message", "state")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ...) -> None: ...
