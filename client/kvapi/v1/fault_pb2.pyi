from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LinkDirection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LINK_DIRECTION_UNSPECIFIED: _ClassVar[LinkDirection]
    LINK_DIRECTION_BOTH: _ClassVar[LinkDirection]
    LINK_DIRECTION_OUT: _ClassVar[LinkDirection]
    LINK_DIRECTION_IN: _ClassVar[LinkDirection]
LINK_DIRECTION_UNSPECIFIED: LinkDirection
LINK_DIRECTION_BOTH: LinkDirection
LINK_DIRECTION_OUT: LinkDirection
LINK_DIRECTION_IN: LinkDirection

class LinkFault(_message.Message):
    __slots__ = ("peer", "direction", "loss", "delay_ms", "jitter_ms")
    PEER_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    JITTER_MS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    direction: LinkDirection
    loss: float
    delay_ms: int
    jitter_ms: int
    def __init__(self, peer: _Optional[str] = ..., direction: _Optional[_Union[LinkDirection, str]] = ..., loss: _Optional[float] = ..., delay_ms: _Optional[int] = ..., jitter_ms: _Optional[int] = ...) -> None: ...

class DiskFault(_message.Message):
    __slots__ = ("delay_ms", "full", "fail")
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    delay_ms: int
    full: bool
    fail: bool
    def __init__(self, delay_ms: _Optional[int] = ..., full: bool = ..., fail: bool = ...) -> None: ...

class ClockFault(_message.Message):
    __slots__ = ("offset_ms", "rate")
    OFFSET_MS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    offset_ms: int
    rate: float
    def __init__(self, offset_ms: _Optional[int] = ..., rate: _Optional[float] = ...) -> None: ...

class InjectedFault(_message.Message):
    __slots__ = ("id", "link", "disk", "clock", "duration_ms", "remaining_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    id: str
    link: LinkFault
    disk: DiskFault
    clock: ClockFault
    duration_ms: int
    remaining_ms: int
    def __init__(self, id: _Optional[str] = ..., link: _Optional[_Union[LinkFault, _Mapping]] = ..., disk: _Optional[_Union[DiskFault, _Mapping]] = ..., clock: _Optional[_Union[ClockFault, _Mapping]] = ..., duration_ms: _Optional[int] = ..., remaining_ms: _Optional[int] = ...) -> None: ...

class InjectFaultRequest(_message.Message):
    __slots__ = ("fault",)
    FAULT_FIELD_NUMBER: _ClassVar[int]
    fault: InjectedFault
    def __init__(self, fault: _Optional[_Union[InjectedFault, _Mapping]] = ...) -> None: ...

class InjectFaultResponse(_message.Message):
    __slots__ = ("fault",)
    FAULT_FIELD_NUMBER: _ClassVar[int]
    fault: InjectedFault
    def __init__(self, fault: _Optional[_Union[InjectedFault, _Mapping]] = ...) -> None: ...

class ListFaultsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListFaultsResponse(_message.Message):
    __slots__ = ("faults",)
    FAULTS_FIELD_NUMBER: _ClassVar[int]
    faults: _containers.RepeatedCompositeFieldContainer[InjectedFault]
    def __init__(self, faults: _Optional[_Iterable[_Union[InjectedFault, _Mapping]]] = ...) -> None: ...

class HealRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class HealResponse(_message.Message):
    __slots__ = ("healed",)
    HEALED_FIELD_NUMBER: _ClassVar[int]
    healed: _containers.RepeatedCompositeFieldContainer[InjectedFault]
    def __init__(self, healed: _Optional[_Iterable[_Union[InjectedFault, _Mapping]]] = ...) -> None: ...
