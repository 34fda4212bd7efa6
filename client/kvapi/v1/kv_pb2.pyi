from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_EVENTUAL: _ClassVar[Consistency]
    CONSISTENCY_STRONG: _ClassVar[Consistency]
    CONSISTENCY_SESSION: _ClassVar[Consistency]
    CONSISTENCY_BOUNDED: _ClassVar[Consistency]

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_FOLLOWER: _ClassVar[Role]
    ROLE_CANDIDATE: _ClassVar[Role]
    ROLE_LEADER: _ClassVar[Role]
    ROLE_LEARNER: _ClassVar[Role]

class CompareOperator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPARE_OPERATOR_UNSPECIFIED: _ClassVar[CompareOperator]
    COMPARE_OPERATOR_EQUAL: _ClassVar[CompareOperator]
    COMPARE_OPERATOR_NOT_EQUAL: _ClassVar[CompareOperator]
    COMPARE_OPERATOR_GREATER: _ClassVar[CompareOperator]
    COMPARE_OPERATOR_LESS: _ClassVar[CompareOperator]

class OperationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_STATE_UNSPECIFIED: _ClassVar[OperationState]
    OPERATION_STATE_PENDING: _ClassVar[OperationState]
    OPERATION_STATE_APPLIED: _ClassVar[OperationState]
    OPERATION_STATE_SUPERSEDED: _ClassVar[OperationState]
    OPERATION_STATE_SETTLED: _ClassVar[OperationState]
    OPERATION_STATE_UNKNOWN: _ClassVar[OperationState]

class SupersededReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SUPERSEDED_REASON_UNSPECIFIED: _ClassVar[SupersededReason]
    SUPERSEDED_REASON_STRONG_WRITE: _ClassVar[SupersededReason]
    SUPERSEDED_REASON_LATER_WRITE: _ClassVar[SupersededReason]
    SUPERSEDED_REASON_HORIZON: _ClassVar[SupersededReason]
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_EVENTUAL: Consistency
CONSISTENCY_STRONG: Consistency
CONSISTENCY_SESSION: Consistency
CONSISTENCY_BOUNDED: Consistency
ROLE_UNSPECIFIED: Role
ROLE_FOLLOWER: Role
ROLE_CANDIDATE: Role
ROLE_LEADER: Role
ROLE_LEARNER: Role
COMPARE_OPERATOR_UNSPECIFIED: CompareOperator
COMPARE_OPERATOR_EQUAL: CompareOperator
COMPARE_OPERATOR_NOT_EQUAL: CompareOperator
COMPARE_OPERATOR_GREATER: CompareOperator
COMPARE_OPERATOR_LESS: CompareOperator
OPERATION_STATE_UNSPECIFIED: OperationState
OPERATION_STATE_PENDING: OperationState
OPERATION_STATE_APPLIED: OperationState
OPERATION_STATE_SUPERSEDED: OperationState
OPERATION_STATE_SETTLED: OperationState
OPERATION_STATE_UNKNOWN: OperationState
SUPERSEDED_REASON_UNSPECIFIED: SupersededReason
SUPERSEDED_REASON_STRONG_WRITE: SupersededReason
SUPERSEDED_REASON_LATER_WRITE: SupersededReason
SUPERSEDED_REASON_HORIZON: SupersededReason

class Served(_message.Message):
    __slots__ = ("node", "role", "consistency", "shard", "revision", "hlc", "staleness_ms", "session")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    node: str
    role: Role
    consistency: Consistency
    shard: int
    revision: int
    hlc: int
    staleness_ms: int
    session: bytes
    def __init__(self, node: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., shard: _Optional[int] = ..., revision: _Optional[int] = ..., hlc: _Optional[int] = ..., staleness_ms: _Optional[int] = ..., session: _Optional[bytes] = ...) -> None: ...

class OriginPosition(_message.Message):
    __slots__ = ("node", "incarnation", "sequence")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    sequence: int
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class SessionPosition(_message.Message):
    __slots__ = ("shard", "revision", "origins", "hlc")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    shard: int
    revision: int
    origins: _containers.RepeatedCompositeFieldContainer[OriginPosition]
    hlc: int
    def __init__(self, shard: _Optional[int] = ..., revision: _Optional[int] = ..., origins: _Optional[_Iterable[_Union[OriginPosition, _Mapping]]] = ..., hlc: _Optional[int] = ...) -> None: ...

class SessionToken(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedCompositeFieldContainer[SessionPosition]
    def __init__(self, positions: _Optional[_Iterable[_Union[SessionPosition, _Mapping]]] = ...) -> None: ...

class RequestId(_message.Message):
    __slots__ = ("session", "sequence", "acknowledged", "started")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    sequence: int
    acknowledged: int
    started: int
    def __init__(self, session: _Optional[bytes] = ..., sequence: _Optional[int] = ..., acknowledged: _Optional[int] = ..., started: _Optional[int] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("key", "value", "consistency", "key_text", "value_text", "text", "if_revision", "acks", "session", "request")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    VALUE_TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    consistency: Consistency
    key_text: str
    value_text: str
    text: bool
    if_revision: int
    acks: int
    session: bytes
    request: RequestId
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., key_text: _Optional[str] = ..., value_text: _Optional[str] = ..., text: bool = ..., if_revision: _Optional[int] = ..., acks: _Optional[int] = ..., session: _Optional[bytes] = ..., request: _Optional[_Union[RequestId, _Mapping]] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("revision", "operation_id", "acks", "served")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    operation_id: str
    acks: int
    served: Served
    def __init__(self, revision: _Optional[int] = ..., operation_id: _Optional[str] = ..., acks: _Optional[int] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("key", "consistency", "key_text", "text", "session", "max_staleness_ms")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    consistency: Consistency
    key_text: str
    text: bool
    session: bytes
    max_staleness_ms: int
    def __init__(self, key: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., key_text: _Optional[str] = ..., text: bool = ..., session: _Optional[bytes] = ..., max_staleness_ms: _Optional[int] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("found", "value", "revision", "create_revision", "version", "hlc", "tentative", "key_text", "value_text", "served")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    TENTATIVE_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    VALUE_TEXT_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    revision: int
    create_revision: int
    version: int
    hlc: int
    tentative: bool
    key_text: str
    value_text: str
    served: Served
    def __init__(self, found: bool = ..., value: _Optional[bytes] = ..., revision: _Optional[int] = ..., create_revision: _Optional[int] = ..., version: _Optional[int] = ..., hlc: _Optional[int] = ..., tentative: bool = ..., key_text: _Optional[str] = ..., value_text: _Optional[str] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("key", "consistency", "key_text", "text", "if_revision", "acks", "session", "request")
    KEY_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    consistency: Consistency
    key_text: str
    text: bool
    if_revision: int
    acks: int
    session: bytes
    request: RequestId
    def __init__(self, key: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., key_text: _Optional[str] = ..., text: bool = ..., if_revision: _Optional[int] = ..., acks: _Optional[int] = ..., session: _Optional[bytes] = ..., request: _Optional[_Union[RequestId, _Mapping]] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("found", "revision", "operation_id", "acks", "served")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    ACKS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    found: bool
    revision: int
    operation_id: str
    acks: int
    served: Served
    def __init__(self, found: bool = ..., revision: _Optional[int] = ..., operation_id: _Optional[str] = ..., acks: _Optional[int] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...

class RangeRequest(_message.Message):
    __slots__ = ("prefix", "start", "end", "consistency", "limit", "page_token", "keys_only", "count_only", "prefix_text", "start_text", "end_text", "text", "session", "max_staleness_ms", "shard")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    COUNT_ONLY_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TEXT_FIELD_NUMBER: _ClassVar[int]
    START_TEXT_FIELD_NUMBER: _ClassVar[int]
    END_TEXT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_MS_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    prefix: bytes
    start: bytes
    end: bytes
    consistency: Consistency
    limit: int
    page_token: bytes
    keys_only: bool
    count_only: bool
    prefix_text: str
    start_text: str
    end_text: str
    text: bool
    session: bytes
    max_staleness_ms: int
    shard: int
    def __init__(self, prefix: _Optional[bytes] = ..., start: _Optional[bytes] = ..., end: _Optional[bytes] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., limit: _Optional[int] = ..., page_token: _Optional[bytes] = ..., keys_only: bool = ..., count_only: bool = ..., prefix_text: _Optional[str] = ..., start_text: _Optional[str] = ..., end_text: _Optional[str] = ..., text: bool = ..., session: _Optional[bytes] = ..., max_staleness_ms: _Optional[int] = ..., shard: _Optional[int] = ...) -> None: ...

class KeyValue(_message.Message):
    __slots__ = ("key", "value", "revision", "create_revision", "version", "hlc", "tentative", "key_text", "value_text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CREATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    TENTATIVE_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    VALUE_TEXT_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    revision: int
    create_revision: int
    version: int
    hlc: int
    tentative: bool
    key_text: str
    value_text: str
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., revision: _Optional[int] = ..., create_revision: _Optional[int] = ..., version: _Optional[int] = ..., hlc: _Optional[int] = ..., tentative: bool = ..., key_text: _Optional[str] = ..., value_text: _Optional[str] = ...) -> None: ...

class RangeResponse(_message.Message):
    __slots__ = ("items", "next_page_token", "count", "served")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[KeyValue]
    next_page_token: bytes
    count: int
    served: _containers.RepeatedCompositeFieldContainer[Served]
    def __init__(self, items: _Optional[_Iterable[_Union[KeyValue, _Mapping]]] = ..., next_page_token: _Optional[bytes] = ..., count: _Optional[int] = ..., served: _Optional[_Iterable[_Union[Served, _Mapping]]] = ...) -> None: ...

class BatchOperation(_message.Message):
    __slots__ = ("put", "get", "delete", "range", "traceparent")
    PUT_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    put: PutRequest
    get: GetRequest
    delete: DeleteRequest
    range: RangeRequest
    traceparent: str
    def __init__(self, put: _Optional[_Union[PutRequest, _Mapping]] = ..., get: _Optional[_Union[GetRequest, _Mapping]] = ..., delete: _Optional[_Union[DeleteRequest, _Mapping]] = ..., range: _Optional[_Union[RangeRequest, _Mapping]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class BatchRequest(_message.Message):
    __slots__ = ("operations",)
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    operations: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    def __init__(self, operations: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ...) -> None: ...

class OperationError(_message.Message):
    __slots__ = ("code", "message", "reason", "metadata", "retry_after_ms")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    reason: str
    metadata: _containers.ScalarMap[str, str]
    retry_after_ms: int
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("put", "get", "delete", "range", "error")
    PUT_FIELD_NUMBER: _ClassVar[int]
    GET_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    RANGE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    put: PutResponse
    get: GetResponse
    delete: DeleteResponse
    range: RangeResponse
    error: OperationError
    def __init__(self, put: _Optional[_Union[PutResponse, _Mapping]] = ..., get: _Optional[_Union[GetResponse, _Mapping]] = ..., delete: _Optional[_Union[DeleteResponse, _Mapping]] = ..., range: _Optional[_Union[RangeResponse, _Mapping]] = ..., error: _Optional[_Union[OperationError, _Mapping]] = ...) -> None: ...

class BatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ...) -> None: ...

class Compare(_message.Message):
    __slots__ = ("key", "key_text", "operator", "value", "value_text", "revision", "exists")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VALUE_TEXT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EXISTS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    key_text: str
    operator: CompareOperator
    value: bytes
    value_text: str
    revision: int
    exists: bool
    def __init__(self, key: _Optional[bytes] = ..., key_text: _Optional[str] = ..., operator: _Optional[_Union[CompareOperator, str]] = ..., value: _Optional[bytes] = ..., value_text: _Optional[str] = ..., revision: _Optional[int] = ..., exists: bool = ...) -> None: ...

class TxnRequest(_message.Message):
    __slots__ = ("compare", "then", "otherwise", "request", "text", "session")
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    OTHERWISE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    compare: _containers.RepeatedCompositeFieldContainer[Compare]
    then: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    otherwise: _containers.RepeatedCompositeFieldContainer[BatchOperation]
    request: RequestId
    text: bool
    session: bytes
    def __init__(self, compare: _Optional[_Iterable[_Union[Compare, _Mapping]]] = ..., then: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ..., otherwise: _Optional[_Iterable[_Union[BatchOperation, _Mapping]]] = ..., request: _Optional[_Union[RequestId, _Mapping]] = ..., text: bool = ..., session: _Optional[bytes] = ...) -> None: ...

class TxnResponse(_message.Message):
    __slots__ = ("succeeded", "results", "transaction_id", "served")
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    succeeded: bool
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    transaction_id: str
    served: _containers.RepeatedCompositeFieldContainer[Served]
    def __init__(self, succeeded: bool = ..., results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ..., transaction_id: _Optional[str] = ..., served: _Optional[_Iterable[_Union[Served, _Mapping]]] = ...) -> None: ...

class OperationRequest(_message.Message):
    __slots__ = ("operation_id",)
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    operation_id: str
    def __init__(self, operation_id: _Optional[str] = ...) -> None: ...

class OperationResponse(_message.Message):
    __slots__ = ("state", "revision", "reason", "superseded_by", "key", "served")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_BY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    state: OperationState
    revision: int
    reason: SupersededReason
    superseded_by: int
    key: bytes
    served: Served
    def __init__(self, state: _Optional[_Union[OperationState, str]] = ..., revision: _Optional[int] = ..., reason: _Optional[_Union[SupersededReason, str]] = ..., superseded_by: _Optional[int] = ..., key: _Optional[bytes] = ..., served: _Optional[_Union[Served, _Mapping]] = ...) -> None: ...
