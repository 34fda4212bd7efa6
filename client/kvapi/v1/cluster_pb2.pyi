from kvapi.v1 import kv_pb2 as _kv_pb2
from kvapi.v1 import message_pb2 as _message_pb2
from kvapi.v1 import observability_pb2 as _observability_pb2
from kvapi.v1 import two_phase_commit_pb2 as _two_phase_commit_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeadershipCause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEADERSHIP_CAUSE_UNSPECIFIED: _ClassVar[LeadershipCause]
    LEADERSHIP_CAUSE_START: _ClassVar[LeadershipCause]
    LEADERSHIP_CAUSE_NODE_FAILED: _ClassVar[LeadershipCause]
    LEADERSHIP_CAUSE_TIMEOUT: _ClassVar[LeadershipCause]
    LEADERSHIP_CAUSE_TRANSFER: _ClassVar[LeadershipCause]
LEADERSHIP_CAUSE_UNSPECIFIED: LeadershipCause
LEADERSHIP_CAUSE_START: LeadershipCause
LEADERSHIP_CAUSE_NODE_FAILED: LeadershipCause
LEADERSHIP_CAUSE_TIMEOUT: LeadershipCause
LEADERSHIP_CAUSE_TRANSFER: LeadershipCause

class LocateRequest(_message.Message):
    __slots__ = ("key", "key_text")
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_TEXT_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    key_text: str
    def __init__(self, key: _Optional[bytes] = ..., key_text: _Optional[str] = ...) -> None: ...

class LocateResponse(_message.Message):
    __slots__ = ("shard", "leader", "replicas", "epoch")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    shard: int
    leader: str
    replicas: _containers.RepeatedScalarFieldContainer[str]
    epoch: int
    def __init__(self, shard: _Optional[int] = ..., leader: _Optional[str] = ..., replicas: _Optional[_Iterable[str]] = ..., epoch: _Optional[int] = ...) -> None: ...

class TopologyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardPlacement(_message.Message):
    __slots__ = ("shard", "leader", "term", "replicas")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    leader: str
    term: int
    replicas: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, shard: _Optional[int] = ..., leader: _Optional[str] = ..., term: _Optional[int] = ..., replicas: _Optional[_Iterable[str]] = ...) -> None: ...

class TopologyResponse(_message.Message):
    __slots__ = ("epoch", "cluster_id", "members", "shards", "key_hash", "hlc")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    KEY_HASH_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    cluster_id: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    shards: _containers.RepeatedCompositeFieldContainer[ShardPlacement]
    key_hash: str
    hlc: int
    def __init__(self, epoch: _Optional[int] = ..., cluster_id: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., shards: _Optional[_Iterable[_Union[ShardPlacement, _Mapping]]] = ..., key_hash: _Optional[str] = ..., hlc: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "address", "state", "incarnation", "uid", "phi", "last_heard_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    LAST_HEARD_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    state: _message_pb2.NodeState
    incarnation: int
    uid: str
    phi: float
    last_heard_ms: int
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[_Union[_message_pb2.NodeState, str]] = ..., incarnation: _Optional[int] = ..., uid: _Optional[str] = ..., phi: _Optional[float] = ..., last_heard_ms: _Optional[int] = ...) -> None: ...

class MembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MembersResponse(_message.Message):
    __slots__ = ("members", "epoch")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    epoch: int
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., epoch: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardStatus(_message.Message):
    __slots__ = ("shard", "role", "term", "leader", "last_index", "commit_index", "applied_index", "flushed_index", "first_index", "state_hash", "pending_eventual", "superseded", "keys", "lag")
    class LagEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    COMMIT_INDEX_FIELD_NUMBER: _ClassVar[int]
    APPLIED_INDEX_FIELD_NUMBER: _ClassVar[int]
    FLUSHED_INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_INDEX_FIELD_NUMBER: _ClassVar[int]
    STATE_HASH_FIELD_NUMBER: _ClassVar[int]
    PENDING_EVENTUAL_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    shard: int
    role: _kv_pb2.Role
    term: int
    leader: str
    last_index: int
    commit_index: int
    applied_index: int
    flushed_index: int
    first_index: int
    state_hash: int
    pending_eventual: int
    superseded: int
    keys: int
    lag: _containers.ScalarMap[str, int]
    def __init__(self, shard: _Optional[int] = ..., role: _Optional[_Union[_kv_pb2.Role, str]] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., last_index: _Optional[int] = ..., commit_index: _Optional[int] = ..., applied_index: _Optional[int] = ..., flushed_index: _Optional[int] = ..., first_index: _Optional[int] = ..., state_hash: _Optional[int] = ..., pending_eventual: _Optional[int] = ..., superseded: _Optional[int] = ..., keys: _Optional[int] = ..., lag: _Optional[_Mapping[str, int]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("node", "version", "uptime_ms", "shards", "log_size_bytes", "store_size_bytes", "free_bytes", "memory_bytes", "out_of_space", "transport")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    LOG_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SPACE_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    node: Member
    version: str
    uptime_ms: int
    shards: _containers.RepeatedCompositeFieldContainer[ShardStatus]
    log_size_bytes: int
    store_size_bytes: int
    free_bytes: int
    memory_bytes: int
    out_of_space: bool
    transport: str
    def __init__(self, node: _Optional[_Union[Member, _Mapping]] = ..., version: _Optional[str] = ..., uptime_ms: _Optional[int] = ..., shards: _Optional[_Iterable[_Union[ShardStatus, _Mapping]]] = ..., log_size_bytes: _Optional[int] = ..., store_size_bytes: _Optional[int] = ..., free_bytes: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., out_of_space: bool = ..., transport: _Optional[str] = ...) -> None: ...

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("shard", "to")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    shard: int
    to: str
    def __init__(self, shard: _Optional[int] = ..., to: _Optional[str] = ...) -> None: ...

class TransferLeadershipResponse(_message.Message):
    __slots__ = ("leader", "term")
    LEADER_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    leader: str
    term: int
    def __init__(self, leader: _Optional[str] = ..., term: _Optional[int] = ...) -> None: ...

class SupersededRequest(_message.Message):
    __slots__ = ("shard", "limit")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    limit: int
    def __init__(self, shard: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class SupersededWrite(_message.Message):
    __slots__ = ("operation_id", "key", "revision", "reason", "superseded_by", "shard", "hlc")
    OPERATION_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_BY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    operation_id: str
    key: bytes
    revision: int
    reason: _kv_pb2.SupersededReason
    superseded_by: int
    shard: int
    hlc: int
    def __init__(self, operation_id: _Optional[str] = ..., key: _Optional[bytes] = ..., revision: _Optional[int] = ..., reason: _Optional[_Union[_kv_pb2.SupersededReason, str]] = ..., superseded_by: _Optional[int] = ..., shard: _Optional[int] = ..., hlc: _Optional[int] = ...) -> None: ...

class SupersededResponse(_message.Message):
    __slots__ = ("total", "writes")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    total: int
    writes: _containers.RepeatedCompositeFieldContainer[SupersededWrite]
    def __init__(self, total: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[SupersededWrite, _Mapping]]] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("node", "limit")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    node: str
    limit: int
    def __init__(self, node: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class NodeEvent(_message.Message):
    __slots__ = ("node", "to", "at_ms", "why", "incarnation", "silent_ms", "last_alive_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ALIVE_MS_FIELD_NUMBER: _ClassVar[int]
    node: str
    to: _message_pb2.NodeState
    at_ms: int
    why: str
    incarnation: int
    silent_ms: int
    last_alive_ms: int
    def __init__(self, node: _Optional[str] = ..., to: _Optional[_Union[_message_pb2.NodeState, str]] = ..., at_ms: _Optional[int] = ..., why: _Optional[str] = ..., incarnation: _Optional[int] = ..., silent_ms: _Optional[int] = ..., last_alive_ms: _Optional[int] = ..., **kwargs) -> None: ...

class EventsResponse(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[NodeEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[NodeEvent, _Mapping]]] = ...) -> None: ...

class TransactionsRequest(_message.Message):
    __slots__ = ("shard", "transaction_id", "ended", "limit")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    shard: int
    transaction_id: str
    ended: bool
    limit: int
    def __init__(self, shard: _Optional[int] = ..., transaction_id: _Optional[str] = ..., ended: bool = ..., limit: _Optional[int] = ...) -> None: ...

class TransactionInfo(_message.Message):
    __slots__ = ("transaction_id", "shard", "state", "anchor", "participants", "age_ms", "index", "write_keys", "read_keys", "read_prefixes", "waiting_eventual", "unresolved", "leader")
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    WRITE_KEYS_FIELD_NUMBER: _ClassVar[int]
    READ_KEYS_FIELD_NUMBER: _ClassVar[int]
    READ_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    WAITING_EVENTUAL_FIELD_NUMBER: _ClassVar[int]
    UNRESOLVED_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    shard: int
    state: _two_phase_commit_pb2.TransactionState
    anchor: int
    participants: _containers.RepeatedScalarFieldContainer[int]
    age_ms: int
    index: int
    write_keys: _containers.RepeatedScalarFieldContainer[bytes]
    read_keys: _containers.RepeatedScalarFieldContainer[bytes]
    read_prefixes: _containers.RepeatedScalarFieldContainer[bytes]
    waiting_eventual: int
    unresolved: _containers.RepeatedScalarFieldContainer[int]
    leader: bool
    def __init__(self, transaction_id: _Optional[str] = ..., shard: _Optional[int] = ..., state: _Optional[_Union[_two_phase_commit_pb2.TransactionState, str]] = ..., anchor: _Optional[int] = ..., participants: _Optional[_Iterable[int]] = ..., age_ms: _Optional[int] = ..., index: _Optional[int] = ..., write_keys: _Optional[_Iterable[bytes]] = ..., read_keys: _Optional[_Iterable[bytes]] = ..., read_prefixes: _Optional[_Iterable[bytes]] = ..., waiting_eventual: _Optional[int] = ..., unresolved: _Optional[_Iterable[int]] = ..., leader: bool = ...) -> None: ...

class TransactionsResponse(_message.Message):
    __slots__ = ("transactions",)
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[TransactionInfo]
    def __init__(self, transactions: _Optional[_Iterable[_Union[TransactionInfo, _Mapping]]] = ...) -> None: ...

class ResolveTransactionRequest(_message.Message):
    __slots__ = ("transaction_id",)
    TRANSACTION_ID_FIELD_NUMBER: _ClassVar[int]
    transaction_id: str
    def __init__(self, transaction_id: _Optional[str] = ...) -> None: ...

class ResolveTransactionResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: _two_phase_commit_pb2.TransactionState
    def __init__(self, state: _Optional[_Union[_two_phase_commit_pb2.TransactionState, str]] = ...) -> None: ...

class LeadershipEvent(_message.Message):
    __slots__ = ("shard", "term", "leader", "previous", "at_ms", "leaderless_ms", "cause")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    LEADERLESS_MS_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    term: int
    leader: str
    previous: str
    at_ms: int
    leaderless_ms: int
    cause: LeadershipCause
    def __init__(self, shard: _Optional[int] = ..., term: _Optional[int] = ..., leader: _Optional[str] = ..., previous: _Optional[str] = ..., at_ms: _Optional[int] = ..., leaderless_ms: _Optional[int] = ..., cause: _Optional[_Union[LeadershipCause, str]] = ...) -> None: ...

class AvailabilityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AvailabilityResponse(_message.Message):
    __slots__ = ("node", "at_ms", "started_ms", "events", "leaderships", "outcomes", "without_leader")
    NODE_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    STARTED_MS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    LEADERSHIPS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_LEADER_FIELD_NUMBER: _ClassVar[int]
    node: str
    at_ms: int
    started_ms: int
    events: _containers.RepeatedCompositeFieldContainer[NodeEvent]
    leaderships: _containers.RepeatedCompositeFieldContainer[LeadershipEvent]
    outcomes: _containers.RepeatedCompositeFieldContainer[_observability_pb2.OutcomeCount]
    without_leader: _containers.RepeatedCompositeFieldContainer[_observability_pb2.ShardWithoutLeader]
    def __init__(self, node: _Optional[str] = ..., at_ms: _Optional[int] = ..., started_ms: _Optional[int] = ..., events: _Optional[_Iterable[_Union[NodeEvent, _Mapping]]] = ..., leaderships: _Optional[_Iterable[_Union[LeadershipEvent, _Mapping]]] = ..., outcomes: _Optional[_Iterable[_Union[_observability_pb2.OutcomeCount, _Mapping]]] = ..., without_leader: _Optional[_Iterable[_Union[_observability_pb2.ShardWithoutLeader, _Mapping]]] = ...) -> None: ...
