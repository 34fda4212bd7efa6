from kvapi.v1 import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MemberRecord(_message.Message):
    __slots__ = ("name", "address", "uid", "incarnation", "version", "state", "leads", "in_flight", "suspected_by")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    SUSPECTED_BY_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    uid: str
    incarnation: int
    version: int
    state: _message_pb2.NodeState
    leads: int
    in_flight: int
    suspected_by: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., uid: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ..., state: _Optional[_Union[_message_pb2.NodeState, str]] = ..., leads: _Optional[int] = ..., in_flight: _Optional[int] = ..., suspected_by: _Optional[str] = ...) -> None: ...

class MemberDigest(_message.Message):
    __slots__ = ("name", "incarnation", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    incarnation: int
    version: int
    def __init__(self, name: _Optional[str] = ..., incarnation: _Optional[int] = ..., version: _Optional[int] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("message", "digests", "records")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    digests: _containers.RepeatedCompositeFieldContainer[MemberDigest]
    records: _containers.RepeatedCompositeFieldContainer[MemberRecord]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., digests: _Optional[_Iterable[_Union[MemberDigest, _Mapping]]] = ..., records: _Optional[_Iterable[_Union[MemberRecord, _Mapping]]] = ...) -> None: ...

class ExchangeResponse(_message.Message):
    __slots__ = ("message", "records", "wanted")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    records: _containers.RepeatedCompositeFieldContainer[MemberRecord]
    wanted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., records: _Optional[_Iterable[_Union[MemberRecord, _Mapping]]] = ..., wanted: _Optional[_Iterable[str]] = ...) -> None: ...
