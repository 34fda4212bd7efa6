"""Calls to `kvapi.v1.Fault`: faults that a node injects into itself, for game days, `kvctl fault` and tests.

Owns how faults are made (`cut`, `link_fault`, `disk_fault`, `clock_fault`) and the conversation with nodes by address. Nodes
serve it only with `faults.enabled = true`; of another one every call fails with reason FAULTS_DISABLED. A fault ends by itself
on its node, so a caller that dies leaves nothing broken for longer than it asked for. All calls block.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeVar

import grpc

from kvapi.v1 import fault_pb2, fault_pb2_grpc
from kvctl.failures import ExitCode, Failure, from_rpc_error
from kvctl.probe import CHANNEL_OPTIONS

Answer = TypeVar("Answer")
Direction = Literal["both", "out", "in"]
DIRECTIONS: dict[Direction, fault_pb2.LinkDirection] = {
    "both": fault_pb2.LINK_DIRECTION_BOTH,
    "out": fault_pb2.LINK_DIRECTION_OUT,
    "in": fault_pb2.LINK_DIRECTION_IN,
}
CALL_TIMEOUT_S = 5.0
DISABLED = "FAULTS_DISABLED"
"""Reason of the failure where a node does not serve faults."""
DISABLED_HINT = (
    "set faults.enabled = true in its configuration and start it again; of a playground: kvctl cluster up --set "
    "faults.enabled=true. Never where the data matters: anybody who reaches the node can then break it"
)


def link_fault(
    peer: str = "", *, loss: float = 0.0, delay_ms: int = 0, jitter_ms: int = 0, direction: Direction = "both"
) -> fault_pb2.InjectedFault:
    """Messages between the node and `peer` (empty: all peers) get lost with probability `loss`, or come later."""
    link = fault_pb2.LinkFault(peer=peer, direction=DIRECTIONS[direction], loss=loss, delay_ms=delay_ms, jitter_ms=jitter_ms)
    return fault_pb2.InjectedFault(link=link)


def cut(peer: str = "", *, direction: Direction = "both") -> fault_pb2.InjectedFault:
    """Nothing passes between the node and `peer` (empty: all peers)."""
    return link_fault(peer, loss=1.0, direction=direction)


def disk_fault(*, delay_ms: int = 0, full: bool = False, fail: bool = False) -> fault_pb2.InjectedFault:
    """The node's log disk is slow, or full, or fails its next sync (which stops the node for good)."""
    return fault_pb2.InjectedFault(disk=fault_pb2.DiskFault(delay_ms=delay_ms, full=full, fail=fail))


def clock_fault(*, offset_ms: int = 0, rate: float = 1.0) -> fault_pb2.InjectedFault:
    """The node's wall clock is `offset_ms` ahead (negative: behind) and runs at `rate`."""
    return fault_pb2.InjectedFault(clock=fault_pb2.ClockFault(offset_ms=offset_ms, rate=rate))


class FaultClient:
    """Conversations with nodes, by "host:port"; closes its connections at the end of a `with`.

    Every call raises `kvctl.failures.Failure`: INVALID_ARGUMENT, UNAVAILABLE, DEADLINE_EXCEEDED, FAULTS_DISABLED.
    """

    def __init__(self, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """`timeout_s` bounds each call."""
        self._timeout_s = timeout_s
        self._channels: dict[str, grpc.Channel] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def inject(self, address: str, fault: fault_pb2.InjectedFault, for_s: float = 0.0) -> fault_pb2.InjectedFault:
        """Begin a fault on one node, for `for_s` seconds (0: as the fault says, else a minute): the fault with its id."""
        wanted = fault_pb2.InjectedFault()
        wanted.CopyFrom(fault)
        if for_s:
            wanted.duration_ms = max(1, round(for_s * 1000))
        request = fault_pb2.InjectFaultRequest(fault=wanted)
        return self._call(address, lambda stub: stub.InjectFault(request, timeout=self._timeout_s)).fault

    def active(self, address: str) -> list[fault_pb2.InjectedFault]:
        """What is injected on one node now, the oldest first."""
        request = fault_pb2.ListFaultsRequest()
        return [*self._call(address, lambda stub: stub.ListFaults(request, timeout=self._timeout_s)).faults]

    def heal(self, address: str, fault_id: str = "") -> list[fault_pb2.InjectedFault]:
        """End one fault of one node, or all of them: those that were ended. What has ended already is no error."""
        request = fault_pb2.HealRequest(id=fault_id)
        return [*self._call(address, lambda stub: stub.Heal(request, timeout=self._timeout_s)).healed]

    def _call(self, address: str, call: Callable[[fault_pb2_grpc.FaultStub], Answer]) -> Answer:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address, CHANNEL_OPTIONS)
        try:
            return call(fault_pb2_grpc.FaultStub(self._channels[address]))
        except grpc.RpcError as error:
            failure = from_rpc_error(error, address)
            if failure.reason == "UNIMPLEMENTED":
                raise disabled(address) from None
            raise failure from None


def disabled(address: str) -> Failure:
    """The node at `address` does not serve faults."""
    return Failure(ExitCode.REFUSED, DISABLED, f"{address} injects no faults: it runs without faults.enabled", DISABLED_HINT)
