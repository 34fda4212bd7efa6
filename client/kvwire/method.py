"""A method as the server calls it: what a registered handler is made of, looked at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import Any

import grpc


class Style(Enum):
    """How a behaviour wants to be called."""

    COROUTINE = "coroutine"
    GENERATOR = "async generator"
    BLOCKING = "blocking: on a thread"


class Method:
    """One handler, prepared."""

    __slots__ = ("behaviour", "deserialize", "is_plain", "request_streaming", "response_streaming", "serialize", "style")

    def __init__(self, handler: grpc.RpcMethodHandler[Any, Any]) -> None:
        self.request_streaming, self.response_streaming = bool(handler.request_streaming), bool(handler.response_streaming)
        self.deserialize: Callable[[bytes], Any] | None = handler.request_deserializer
        self.serialize: Callable[[Any], bytes] | None = handler.response_serializer
        behaviour: Any
        if self.request_streaming:
            behaviour = handler.stream_stream if self.response_streaming else handler.stream_unary
        else:
            behaviour = handler.unary_stream if self.response_streaming else handler.unary_unary
        self.behaviour: Callable[..., Any] = behaviour
        self.style = _style_of(behaviour)
        self.is_plain = self.style is Style.COROUTINE and not self.request_streaming and not self.response_streaming
        """Whether one request makes one response, without threads: nearly all calls."""


def _style_of(behaviour: Any) -> Style:
    for candidate in (behaviour, getattr(behaviour, "__call__", None)):  # noqa: B004 (an object may be a behaviour)
        if inspect.isasyncgenfunction(candidate):
            return Style.GENERATOR
        if inspect.iscoroutinefunction(candidate):
            return Style.COROUTINE
    return Style.BLOCKING
