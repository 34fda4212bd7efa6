"""`kvapi.v1.Fault`: faults on demand. Registered only with `faults.enabled`."""

from __future__ import annotations

from typing import Any

from kvapi.v1 import fault_pb2, fault_pb2_grpc
from kvnode.api.status import abort
from kvnode.errors import KvnodeError
from kvnode.faults.injector import Injector


class FaultService(fault_pb2_grpc.FaultServicer):
    """Hands requests to the node's injector."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector

    async def InjectFault(self, request: fault_pb2.InjectFaultRequest, context: Any) -> fault_pb2.InjectFaultResponse:
        """Begins a fault."""
        try:
            return fault_pb2.InjectFaultResponse(fault=self._injector.inject(request.fault))
        except KvnodeError as error:
            await abort(context, error)
            raise

    async def ListFaults(self, request: fault_pb2.ListFaultsRequest, context: Any) -> fault_pb2.ListFaultsResponse:
        """What is injected now."""
        return fault_pb2.ListFaultsResponse(faults=self._injector.lasting())

    async def Heal(self, request: fault_pb2.HealRequest, context: Any) -> fault_pb2.HealResponse:
        """Ends one fault, or all."""
        try:
            return fault_pb2.HealResponse(healed=self._injector.heal(request.id))
        except KvnodeError as error:
            await abort(context, error)
            raise
