from kvapi.v1 import kv_pb2 as _kv_pb2
from kvapi.v1 import message_pb2 as _message_pb2
from kvapi.v1 import two_phase_commit_pb2 as _two_phase_commit_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EntryKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENTRY_KIND_UNSPECIFIED: _ClassVar[EntryKind]
    ENTRY_KIND_COMMAND: _ClassVar[EntryKind]
    ENTRY_KIND_CONFIGURATION: _ClassVar[EntryKind]
ENTRY_KIND_UNSPECIFIED: EntryKind
ENTRY_KIND_COMMAND: EntryKind
ENTRY_KIND_CONFIGURATION: EntryKind

class LogEntry(_message.Message):
    __slots__ = ("term", "kind", "data")
    TERM_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    term: int
    kind: EntryKind
    data: bytes
    def __init__(self, term: _Optional[int] = ..., kind: _Optional[_Union[EntryKind, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ShardAppend(_message.Message):
    __slots__ = ("shard", "term", "previous_index", "previous_term", "commit", "entries")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_TERM_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    shard: int
    term: int
    previous_index: int
    previous_term: int
    commit: int
    entries: _containers.RepeatedCompositeFieldContainer[LogEntry]
    def __init__(self, shard: _Optional[int] = ..., term: _Optional[int] = ..., previous_index: _Optional[int] = ..., previous_term: _Optional[int] = ..., commit: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[LogEntry, _Mapping]]] = ...) -> None: ...

class AppendRequest(_message.Message):
    __slots__ = ("message", "appends")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    APPENDS_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    appends: _containers.RepeatedCompositeFieldContainer[ShardAppend]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., appends: _Optional[_Iterable[_Union[ShardAppend, _Mapping]]] = ...) -> None: ...

class ShardAppendResult(_message.Message):
    __slots__ = ("shard", "term", "success", "index", "hint_index", "hint_term", "applied", "eventual_floor", "out_of_space")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_INDEX_FIELD_NUMBER: _ClassVar[int]
    HINT_TERM_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    EVENTUAL_FLOOR_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_SPACE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    term: int
    success: bool
    index: int
    hint_index: int
    hint_term: int
    applied: int
    eventual_floor: int
    out_of_space: bool
    def __init__(self, shard: _Optional[int] = ..., term: _Optional[int] = ..., success: bool = ..., index: _Optional[int] = ..., hint_index: _Optional[int] = ..., hint_term: _Optional[int] = ..., applied: _Optional[int] = ..., eventual_floor: _Optional[int] = ..., out_of_space: bool = ...) -> None: ...

class AppendTiming(_message.Message):
    __slots__ = ("total_us", "log_queue_us", "log_write_us", "fsync_us")
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    LOG_QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    LOG_WRITE_US_FIELD_NUMBER: _ClassVar[int]
    FSYNC_US_FIELD_NUMBER: _ClassVar[int]
    total_us: int
    log_queue_us: int
    log_write_us: int
    fsync_us: int
    def __init__(self, total_us: _Optional[int] = ..., log_queue_us: _Optional[int] = ..., log_write_us: _Optional[int] = ..., fsync_us: _Optional[int] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("message", "results", "timing")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    results: _containers.RepeatedCompositeFieldContainer[ShardAppendResult]
    timing: AppendTiming
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., results: _Optional[_Iterable[_Union[ShardAppendResult, _Mapping]]] = ..., timing: _Optional[_Union[AppendTiming, _Mapping]] = ...) -> None: ...

class InstallSnapshotRequest(_message.Message):
    __slots__ = ("message", "shard", "term", "last_index", "last_term", "offset", "data", "crc32c", "done")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_TERM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    term: int
    last_index: int
    last_term: int
    offset: int
    data: bytes
    crc32c: int
    done: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., term: _Optional[int] = ..., last_index: _Optional[int] = ..., last_term: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ..., crc32c: _Optional[int] = ..., done: bool = ...) -> None: ...

class InstallSnapshotResponse(_message.Message):
    __slots__ = ("message", "shard", "term", "success", "last_index")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    LAST_INDEX_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    term: int
    success: bool
    last_index: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., term: _Optional[int] = ..., success: bool = ..., last_index: _Optional[int] = ...) -> None: ...

class ReadIndexRequest(_message.Message):
    __slots__ = ("message", "shard")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ...) -> None: ...

class ReadIndexResponse(_message.Message):
    __slots__ = ("message", "index", "term")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    index: int
    term: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., index: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class PutCommand(_message.Message):
    __slots__ = ("key", "value", "if_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    if_revision: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., if_revision: _Optional[int] = ...) -> None: ...

class DeleteCommand(_message.Message):
    __slots__ = ("key", "if_revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    IF_REVISION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    if_revision: int
    def __init__(self, key: _Optional[bytes] = ..., if_revision: _Optional[int] = ...) -> None: ...

class EventualWrite(_message.Message):
    __slots__ = ("node", "incarnation", "sequence", "hlc", "base", "key", "value", "deletion", "traceparent")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HLC_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DELETION_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    sequence: int
    hlc: int
    base: int
    key: bytes
    value: bytes
    deletion: bool
    traceparent: str
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequence: _Optional[int] = ..., hlc: _Optional[int] = ..., base: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., deletion: bool = ..., traceparent: _Optional[str] = ...) -> None: ...

class SequenceCommand(_message.Message):
    __slots__ = ("writes",)
    WRITES_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[EventualWrite]
    def __init__(self, writes: _Optional[_Iterable[_Union[EventualWrite, _Mapping]]] = ...) -> None: ...

class CollectCommand(_message.Message):
    __slots__ = ("horizon",)
    HORIZON_FIELD_NUMBER: _ClassVar[int]
    horizon: int
    def __init__(self, horizon: _Optional[int] = ...) -> None: ...

class TermStartCommand(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TransactCommand(_message.Message):
    __slots__ = ("part",)
    PART_FIELD_NUMBER: _ClassVar[int]
    part: _two_phase_commit_pb2.TransactionPart
    def __init__(self, part: _Optional[_Union[_two_phase_commit_pb2.TransactionPart, _Mapping]] = ...) -> None: ...

class PrepareCommand(_message.Message):
    __slots__ = ("transaction", "anchor", "participants", "part")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    transaction: _two_phase_commit_pb2.TransactionId
    anchor: int
    participants: _containers.RepeatedScalarFieldContainer[int]
    part: _two_phase_commit_pb2.TransactionPart
    def __init__(self, transaction: _Optional[_Union[_two_phase_commit_pb2.TransactionId, _Mapping]] = ..., anchor: _Optional[int] = ..., participants: _Optional[_Iterable[int]] = ..., part: _Optional[_Union[_two_phase_commit_pb2.TransactionPart, _Mapping]] = ...) -> None: ...

class DecideCommand(_message.Message):
    __slots__ = ("transaction", "commit", "succeeded", "response")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    transaction: _two_phase_commit_pb2.TransactionId
    commit: bool
    succeeded: bool
    response: bytes
    def __init__(self, transaction: _Optional[_Union[_two_phase_commit_pb2.TransactionId, _Mapping]] = ..., commit: bool = ..., succeeded: bool = ..., response: _Optional[bytes] = ...) -> None: ...

class ResolveCommand(_message.Message):
    __slots__ = ("transaction", "commit", "succeeded", "committed_at")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    transaction: _two_phase_commit_pb2.TransactionId
    commit: bool
    succeeded: bool
    committed_at: int
    def __init__(self, transaction: _Optional[_Union[_two_phase_commit_pb2.TransactionId, _Mapping]] = ..., commit: bool = ..., succeeded: bool = ..., committed_at: _Optional[int] = ...) -> None: ...

class ForgetCommand(_message.Message):
    __slots__ = ("transactions",)
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    transactions: _containers.RepeatedCompositeFieldContainer[_two_phase_commit_pb2.TransactionId]
    def __init__(self, transactions: _Optional[_Iterable[_Union[_two_phase_commit_pb2.TransactionId, _Mapping]]] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("hlc", "term_start", "put", "delete", "sequence", "collect", "transact", "prepare", "decide", "resolve", "forget", "request")
    HLC_FIELD_NUMBER: _ClassVar[int]
    TERM_START_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COLLECT_FIELD_NUMBER: _ClassVar[int]
    TRANSACT_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    DECIDE_FIELD_NUMBER: _ClassVar[int]
    RESOLVE_FIELD_NUMBER: _ClassVar[int]
    FORGET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    hlc: int
    term_start: TermStartCommand
    put: PutCommand
    delete: DeleteCommand
    sequence: SequenceCommand
    collect: CollectCommand
    transact: TransactCommand
    prepare: PrepareCommand
    decide: DecideCommand
    resolve: ResolveCommand
    forget: ForgetCommand
    request: _kv_pb2.RequestId
    def __init__(self, hlc: _Optional[int] = ..., term_start: _Optional[_Union[TermStartCommand, _Mapping]] = ..., put: _Optional[_Union[PutCommand, _Mapping]] = ..., delete: _Optional[_Union[DeleteCommand, _Mapping]] = ..., sequence: _Optional[_Union[SequenceCommand, _Mapping]] = ..., collect: _Optional[_Union[CollectCommand, _Mapping]] = ..., transact: _Optional[_Union[TransactCommand, _Mapping]] = ..., prepare: _Optional[_Union[PrepareCommand, _Mapping]] = ..., decide: _Optional[_Union[DecideCommand, _Mapping]] = ..., resolve: _Optional[_Union[ResolveCommand, _Mapping]] = ..., forget: _Optional[_Union[ForgetCommand, _Mapping]] = ..., request: _Optional[_Union[_kv_pb2.RequestId, _Mapping]] = ...) -> None: ...

class PreparedTransaction(_message.Message):
    __slots__ = ("command", "index", "matched")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MATCHED_FIELD_NUMBER: _ClassVar[int]
    command: PrepareCommand
    index: int
    matched: bool
    def __init__(self, command: _Optional[_Union[PrepareCommand, _Mapping]] = ..., index: _Optional[int] = ..., matched: bool = ...) -> None: ...

class EndedTransaction(_message.Message):
    __slots__ = ("transaction", "committed", "succeeded", "committed_at", "unresolved", "number")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_FIELD_NUMBER: _ClassVar[int]
    UNRESOLVED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    transaction: _two_phase_commit_pb2.TransactionId
    committed: bool
    succeeded: bool
    committed_at: int
    unresolved: _containers.RepeatedScalarFieldContainer[int]
    number: int
    def __init__(self, transaction: _Optional[_Union[_two_phase_commit_pb2.TransactionId, _Mapping]] = ..., committed: bool = ..., succeeded: bool = ..., committed_at: _Optional[int] = ..., unresolved: _Optional[_Iterable[int]] = ..., number: _Optional[int] = ...) -> None: ...

class ClientSession(_message.Message):
    __slots__ = ("session", "forgotten", "results", "active_at", "active_index", "after")
    class Result(_message.Message):
        __slots__ = ("sequence", "revision", "existed", "compare_failed", "message", "response")
        SEQUENCE_FIELD_NUMBER: _ClassVar[int]
        REVISION_FIELD_NUMBER: _ClassVar[int]
        EXISTED_FIELD_NUMBER: _ClassVar[int]
        COMPARE_FAILED_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        sequence: int
        revision: int
        existed: bool
        compare_failed: int
        message: str
        response: bytes
        def __init__(self, sequence: _Optional[int] = ..., revision: _Optional[int] = ..., existed: bool = ..., compare_failed: _Optional[int] = ..., message: _Optional[str] = ..., response: _Optional[bytes] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_AT_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_INDEX_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    forgotten: int
    results: _containers.RepeatedCompositeFieldContainer[ClientSession.Result]
    active_at: int
    active_index: int
    after: int
    def __init__(self, session: _Optional[bytes] = ..., forgotten: _Optional[int] = ..., results: _Optional[_Iterable[_Union[ClientSession.Result, _Mapping]]] = ..., active_at: _Optional[int] = ..., active_index: _Optional[int] = ..., after: _Optional[int] = ...) -> None: ...

class EventualBatch(_message.Message):
    __slots__ = ("shard", "node", "incarnation", "sequenced", "writes")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCED_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    shard: int
    node: str
    incarnation: int
    sequenced: int
    writes: _containers.RepeatedCompositeFieldContainer[EventualWrite]
    def __init__(self, shard: _Optional[int] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., sequenced: _Optional[int] = ..., writes: _Optional[_Iterable[_Union[EventualWrite, _Mapping]]] = ...) -> None: ...

class ReplicateEventualRequest(_message.Message):
    __slots__ = ("message", "batches")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    batches: _containers.RepeatedCompositeFieldContainer[EventualBatch]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., batches: _Optional[_Iterable[_Union[EventualBatch, _Mapping]]] = ...) -> None: ...

class EventualHeld(_message.Message):
    __slots__ = ("shard", "node", "incarnation", "held")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    node: str
    incarnation: int
    held: int
    def __init__(self, shard: _Optional[int] = ..., node: _Optional[str] = ..., incarnation: _Optional[int] = ..., held: _Optional[int] = ...) -> None: ...

class ReplicateEventualResponse(_message.Message):
    __slots__ = ("message", "held")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    held: _containers.RepeatedCompositeFieldContainer[EventualHeld]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., held: _Optional[_Iterable[_Union[EventualHeld, _Mapping]]] = ...) -> None: ...
