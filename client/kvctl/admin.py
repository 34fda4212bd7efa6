"""Calls to `kvapi.v1.Cluster`: to any node that answers, or to every node for its own view.

Owns gRPC channels and the turn from one node to the next. Key operations are the SDK's work, not this module's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc
from kvctl.failures import Failure, from_rpc_error, nobody_answers
from kvctl.probe import CHANNEL_OPTIONS

Answer = TypeVar("Answer")
ATTEMPT_TIMEOUT_S_MIN = 0.5
"""A node that is frozen takes connections and says nothing: the others must still get their turn."""
MOVES_ON = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
"""Reasons that say nothing about the next node."""


class Admin:
    """One command's conversation with a cluster; closes its connections at the end of a `with`."""

    def __init__(self, endpoints: Sequence[str], timeout_s: float) -> None:
        """`timeout_s` bounds the whole conversation."""
        self.endpoints = list(endpoints)
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for channel in self._channels.values():
            channel.close()

    def cluster(self, address: str) -> cluster_pb2_grpc.ClusterStub:
        """The stub of one node."""
        return cluster_pb2_grpc.ClusterStub(self._channel(address))

    def any(self, call: Callable[[cluster_pb2_grpc.ClusterStub, float], Answer]) -> tuple[str, Answer]:
        """The first node's answer: (address, answer). `call` gets a stub and a timeout in seconds.

        A node that does not answer is passed over; any other failure is final. Raises Failure.
        """
        failure: Failure | None = None
        for left, address in zip(range(len(self.endpoints), 0, -1), self.endpoints, strict=True):
            try:
                return address, call(self.cluster(address), self._attempt_timeout_s(left))
            except grpc.RpcError as error:
                failure = from_rpc_error(error, address)
                if failure.reason not in MOVES_ON:
                    raise failure from None
        assert failure is not None
        if failure.reason == "UNAVAILABLE" and "refused" in failure.message:
            raise nobody_answers(self.endpoints, failure.message)
        if len(self.endpoints) > 1:
            failure.message = f"none of {', '.join(self.endpoints)} answers; the last error: {failure.message}"
        raise failure

    def each(self, addresses: Sequence[str], call: Callable[[cluster_pb2_grpc.ClusterStub, float], Any]) -> dict[str, Any]:
        """Every node's own answer, asked at once: address -> answer, or the Failure. `call` returns a future."""
        timeout_s = min(self._remaining_s(), max(ATTEMPT_TIMEOUT_S_MIN, self._timeout_s / 2))
        futures = {address: call(self.cluster(address), timeout_s) for address in addresses}
        answers: dict[str, Any] = {}
        for address, future in futures.items():
            try:
                answers[address] = future.result()
            except grpc.RpcError as error:
                answers[address] = from_rpc_error(error, address)
        return answers

    def members(self) -> tuple[str, cluster_pb2.MembersResponse]:
        """The members, as the first node that answers sees them: (its address, answer)."""
        return self.any(lambda stub, timeout_s: stub.Members(cluster_pb2.MembersRequest(), timeout=timeout_s))

    def topology(self) -> cluster_pb2.TopologyResponse:
        """The shard map, as the first node that answers sees it."""
        return self.any(lambda stub, timeout_s: stub.Topology(cluster_pb2.TopologyRequest(), timeout=timeout_s))[1]

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        return self._channels[address]

    def _remaining_s(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _attempt_timeout_s(self, endpoints_left: int) -> float:
        """A fair part of the time that is left."""
        remaining = self._remaining_s()
        return min(remaining, max(ATTEMPT_TIMEOUT_S_MIN, remaining / endpoints_left))
