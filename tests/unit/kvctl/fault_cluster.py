"""A fake cluster whose nodes serve faults, or do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from kvapi.v1 import fault_pb2, fault_pb2_grpc
from tests.unit.kvclient.fake_cluster import Refusal
from tests.unit.kvctl.admin_cluster import AdminCluster, AdminNode


class FaultyNode(AdminNode, fault_pb2_grpc.FaultServicer):
    """A node that keeps what is injected, and lets no time pass."""

    def __init__(self, cluster: FaultyCluster, name: str) -> None:
        super().__init__(cluster, name)
        self.serves_faults = True
        self.injected: dict[str, fault_pb2.InjectedFault] = {}
        self.refuses = ""

    def register(self, server: grpc.aio.Server) -> None:
        """As before, with the fault service where it is enabled."""
        super().register(server)
        if self.serves_faults:
            fault_pb2_grpc.add_FaultServicer_to_server(self, server)

    async def InjectFault(self, request: fault_pb2.InjectFaultRequest, context: Any) -> Any:
        """Gives it an id."""

        def inject() -> fault_pb2.InjectFaultResponse:
            if self.refuses:
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", message=self.refuses)
            fault = request.fault
            fault.id, fault.remaining_ms = str(len(self.injected) + 1), fault.duration_ms
            self.injected[fault.id] = fault
            return fault_pb2.InjectFaultResponse(fault=fault)

        return await self._serve("InjectFault", context, inject)

    async def ListFaults(self, request: fault_pb2.ListFaultsRequest, context: Any) -> Any:
        """All of them."""
        return await self._serve("ListFaults", context, lambda: fault_pb2.ListFaultsResponse(faults=self.injected.values()))

    async def Heal(self, request: fault_pb2.HealRequest, context: Any) -> Any:
        """One, or all."""

        def heal() -> fault_pb2.HealResponse:
            names = [name for name in self.injected if request.id in ("", name)]
            return fault_pb2.HealResponse(healed=[self.injected.pop(name) for name in names])

        return await self._serve("Heal", context, heal)


class FaultyCluster(AdminCluster):
    """Three nodes that serve faults, except those named."""

    nodes: dict[str, FaultyNode]  # type: ignore[assignment]
    stop: Callable[[str], object]
    """Stops a node's server; set by whoever starts the cluster."""

    def __init__(self, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.nodes = {name: FaultyNode(self, name) for name in self.nodes}
        for name in without:
            self.nodes[name].serves_faults = False

    @property
    def injected(self) -> dict[str, list[fault_pb2.InjectedFault]]:
        """What lasts, by node."""
        return {name: list(node.injected.values()) for name, node in self.nodes.items() if node.injected}
