from kvapi.v1 import kv_pb2 as _kv_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("node", "metrics")
    NODE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    node: str
    metrics: str
    def __init__(self, node: _Optional[str] = ..., metrics: _Optional[str] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("count", "sum_us", "min_us", "max_us", "buckets", "counts")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_US_FIELD_NUMBER: _ClassVar[int]
    MIN_US_FIELD_NUMBER: _ClassVar[int]
    MAX_US_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    count: int
    sum_us: int
    min_us: int
    max_us: int
    buckets: _containers.RepeatedScalarFieldContainer[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[int] = ..., sum_us: _Optional[int] = ..., min_us: _Optional[int] = ..., max_us: _Optional[int] = ..., buckets: _Optional[_Iterable[int]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class LatencySeries(_message.Message):
    __slots__ = ("operation", "consistency", "stage", "histogram")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    HISTOGRAM_FIELD_NUMBER: _ClassVar[int]
    operation: str
    consistency: _kv_pb2.Consistency
    stage: str
    histogram: Histogram
    def __init__(self, operation: _Optional[str] = ..., consistency: _Optional[_Union[_kv_pb2.Consistency, str]] = ..., stage: _Optional[str] = ..., histogram: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class LatencyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LatencyResponse(_message.Message):
    __slots__ = ("node", "incarnation", "at_ms", "since_ms", "series")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    node: str
    incarnation: int
    at_ms: int
    since_ms: int
    series: _containers.RepeatedCompositeFieldContainer[LatencySeries]
    def __init__(self, node: _Optional[str] = ..., incarnation: _Optional[int] = ..., at_ms: _Optional[int] = ..., since_ms: _Optional[int] = ..., series: _Optional[_Iterable[_Union[LatencySeries, _Mapping]]] = ...) -> None: ...

class OutcomeCount(_message.Message):
    __slots__ = ("operation", "consistency", "outcome", "count")
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    operation: str
    consistency: _kv_pb2.Consistency
    outcome: str
    count: int
    def __init__(self, operation: _Optional[str] = ..., consistency: _Optional[_Union[_kv_pb2.Consistency, str]] = ..., outcome: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class ShardWithoutLeader(_message.Message):
    __slots__ = ("shard", "since_ms", "previous")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    since_ms: int
    previous: str
    def __init__(self, shard: _Optional[int] = ..., since_ms: _Optional[int] = ..., previous: _Optional[str] = ...) -> None: ...

class TracesRequest(_message.Message):
    __slots__ = ("trace_id", "limit")
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    trace_id: str
    limit: int
    def __init__(self, trace_id: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class TracesResponse(_message.Message):
    __slots__ = ("node", "lines")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    node: str
    lines: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[str] = ..., lines: _Optional[_Iterable[str]] = ...) -> None: ...
