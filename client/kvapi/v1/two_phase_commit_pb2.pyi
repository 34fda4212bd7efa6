from kvapi.v1 import kv_pb2 as _kv_pb2
from kvapi.v1 import message_pb2 as _message_pb2
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

class TransactionPart(_message.Message):
    __slots__ = ("compare", "then", "otherwise")
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    OTHERWISE_FIELD_NUMBER: _ClassVar[int]
    compare: _containers.RepeatedCompositeFieldContainer[_kv_pb2.Compare]
    then: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchOperation]
    otherwise: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchOperation]
    def __init__(self, compare: _Optional[_Iterable[_Union[_kv_pb2.Compare, _Mapping]]] = ..., then: _Optional[_Iterable[_Union[_kv_pb2.BatchOperation, _Mapping]]] = ..., otherwise: _Optional[_Iterable[_Union[_kv_pb2.BatchOperation, _Mapping]]] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("message", "transaction", "shard", "anchor", "participants", "part")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    shard: int
    anchor: int
    participants: _containers.RepeatedScalarFieldContainer[int]
    part: TransactionPart
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., shard: _Optional[int] = ..., anchor: _Optional[int] = ..., participants: _Optional[_Iterable[int]] = ..., part: _Optional[_Union[TransactionPart, _Mapping]] = ...) -> None: ...

class PrepareResponse(_message.Message):
    __slots__ = ("message", "state", "why", "index", "matched", "then", "otherwise", "horizon", "served")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    OTHERWISE_FIELD_NUMBER: _ClassVar[int]
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    why: str
    index: int
    matched: bool
    then: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchResult]
    otherwise: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchResult]
    horizon: int
    served: _kv_pb2.Served
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ..., why: _Optional[str] = ..., index: _Optional[int] = ..., matched: bool = ..., then: _Optional[_Iterable[_Union[_kv_pb2.BatchResult, _Mapping]]] = ..., otherwise: _Optional[_Iterable[_Union[_kv_pb2.BatchResult, _Mapping]]] = ..., horizon: _Optional[int] = ..., served: _Optional[_Union[_kv_pb2.Served, _Mapping]] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("message", "transaction", "anchor", "commit", "succeeded", "request", "response")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    anchor: int
    commit: bool
    succeeded: bool
    request: _kv_pb2.RequestId
    response: _kv_pb2.TxnResponse
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., anchor: _Optional[int] = ..., commit: bool = ..., succeeded: bool = ..., request: _Optional[_Union[_kv_pb2.RequestId, _Mapping]] = ..., response: _Optional[_Union[_kv_pb2.TxnResponse, _Mapping]] = ...) -> None: ...

class DecideResponse(_message.Message):
    __slots__ = ("message", "state", "succeeded", "committed_at", "executed", "expired_clock", "served")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_CLOCK_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    succeeded: bool
    committed_at: int
    executed: _kv_pb2.TxnResponse
    expired_clock: int
    served: _kv_pb2.Served
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ..., succeeded: bool = ..., committed_at: _Optional[int] = ..., executed: _Optional[_Union[_kv_pb2.TxnResponse, _Mapping]] = ..., expired_clock: _Optional[int] = ..., served: _Optional[_Union[_kv_pb2.Served, _Mapping]] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("message", "transaction", "shard", "commit", "succeeded", "committed_at")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    transaction: TransactionId
    shard: int
    commit: bool
    succeeded: bool
    committed_at: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., transaction: _Optional[_Union[TransactionId, _Mapping]] = ..., shard: _Optional[int] = ..., commit: bool = ..., succeeded: bool = ..., committed_at: _Optional[int] = ...) -> None: ...

class ResolveResponse(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ("message", "shard", "part")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    part: TransactionPart
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., part: _Optional[_Union[TransactionPart, _Mapping]] = ...) -> None: ...

class CollectResponse(_message.Message):
    __slots__ = ("message", "matched", "then", "otherwise", "fingerprint", "served")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    OTHERWISE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    matched: bool
    then: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchResult]
    otherwise: _containers.RepeatedCompositeFieldContainer[_kv_pb2.BatchResult]
    fingerprint: int
    served: _kv_pb2.Served
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., matched: bool = ..., then: _Optional[_Iterable[_Union[_kv_pb2.BatchResult, _Mapping]]] = ..., otherwise: _Optional[_Iterable[_Union[_kv_pb2.BatchResult, _Mapping]]] = ..., fingerprint: _Optional[int] = ..., served: _Optional[_Union[_kv_pb2.Served, _Mapping]] = ...) -> None: ...

class TransactionStatusRequest(_message.Message):
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

class TransactionStatusResponse(_message.Message):
    __slots__ = ("message", "state", "succeeded", "committed_at")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    state: TransactionState
    succeeded: bool
    committed_at: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., state: _Optional[_Union[TransactionState, str]] = ..., succeeded: bool = ..., committed_at: _Optional[int] = ...) -> None: ...
