from kvapi.v1 import message_pb2 as _message_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestVoteRequest(_message.Message):
    __slots__ = ("message", "shard", "term", "last_log_index", "last_log_term", "pre_vote", "leadership_transfer")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_INDEX_FIELD_NUMBER: _ClassVar[int]
    LAST_LOG_TERM_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    LEADERSHIP_TRANSFER_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    term: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    leadership_transfer: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., term: _Optional[int] = ..., last_log_index: _Optional[int] = ..., last_log_term: _Optional[int] = ..., pre_vote: bool = ..., leadership_transfer: bool = ...) -> None: ...

class RequestVoteResponse(_message.Message):
    __slots__ = ("message", "shard", "term", "granted", "pre_vote")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    term: int
    granted: bool
    pre_vote: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., term: _Optional[int] = ..., granted: bool = ..., pre_vote: bool = ...) -> None: ...

class TimeoutNowRequest(_message.Message):
    __slots__ = ("message", "shard", "term")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    shard: int
    term: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., shard: _Optional[int] = ..., term: _Optional[int] = ...) -> None: ...

class TimeoutNowResponse(_message.Message):
    __slots__ = ("message", "refused")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    refused: bool
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., refused: bool = ...) -> None: ...
