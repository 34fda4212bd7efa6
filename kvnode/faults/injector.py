"""Which faults last, and until when; and the node's ports with all of them in between.

Owns the faults' ids and their ends: every fault ends by itself, by the event loop's clock, or earlier when it is healed. Faults
live in memory only. Everything runs on the event loop; `FaultyDisk` hands over to the threads.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog
from google.protobuf.json_format import MessageToDict

from kvapi.v1 import fault_pb2
from kvnode import limits
from kvnode.api.peer_service import PeerEndpoint
from kvnode.errors import InvalidRequest, Overloaded
from kvnode.faults.checks import DURATION_MS_DEFAULT, check
from kvnode.faults.clock import ClockError, FaultyClock
from kvnode.faults.disk import DiskTrouble, FaultyDisk
from kvnode.faults.endpoint import FaultyEndpoint
from kvnode.faults.links import Links
from kvnode.faults.transport import FaultyTransport
from kvnode.node import Ports
from kvnode.types import NodeName, Seconds

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Active:
    """A fault that lasts."""

    fault: fault_pb2.InjectedFault
    since: Seconds
    timer: asyncio.TimerHandle

    def told(self) -> fault_pb2.InjectedFault:
        """As clients see it."""
        told = fault_pb2.InjectedFault()
        told.CopyFrom(self.fault)
        told.remaining_ms = max(0, round((self.timer.when() - asyncio.get_running_loop().time()) * 1000))
        return told


class Injector:
    """One node's faults."""

    def __init__(self, me: NodeName, peers: Collection[NodeName], ports: Ports) -> None:
        """`ports` are the real ones; the node gets `self.ports`, and its peers `endpoint`."""
        self._me, self._peers, self._loop = me, peers, ports.loop
        self._links = Links(ports.loop, random.Random())
        self._disk, self._clock = FaultyDisk(ports.disk), FaultyClock(ports.wall_ms, ports.loop.time)
        self._active: dict[str, _Active] = {}
        self._last_id = 0
        self.ports = replace(
            ports, disk=self._disk, wall_ms=self._clock, transport=FaultyTransport(ports.transport, self._links)
        )
        self.on_disk_full: Callable[[], None] = lambda: None
        """Told when the disk becomes full: a node finds out by itself only when the space that it reserved is used up."""
        logger.warning("FAULT INJECTION IS ENABLED: whoever reaches this node can break it (faults.enabled)")

    def endpoint(self, endpoint: PeerEndpoint) -> FaultyEndpoint:
        """The node's endpoint, with the faults before it."""
        return FaultyEndpoint(endpoint, self._links)

    def inject(self, wanted: fault_pb2.InjectedFault) -> fault_pb2.InjectedFault:
        """Begins a fault. Raises `InvalidRequest`; `Overloaded` when there are too many."""
        check(wanted, self._me, self._peers, (active.fault for active in self._active.values()))
        if len(self._active) >= limits.FAULTS_MAX:
            raise Overloaded(f"{limits.FAULTS_MAX} faults are injected into {self._me} already: heal some")
        self._last_id += 1
        fault = fault_pb2.InjectedFault()
        fault.CopyFrom(wanted)
        fault.id, fault.duration_ms = str(self._last_id), wanted.duration_ms or DURATION_MS_DEFAULT
        timer = self._loop.call_later(fault.duration_ms / 1000, self._end, fault.id, "its time is over")
        active = self._active[fault.id] = _Active(fault, self._loop.time(), timer)
        self._apply()
        logger.warning("fault injected", fault=fault.id, seconds=fault.duration_ms / 1000, **_words(fault))
        if fault.disk.full:
            self.on_disk_full()
        return active.told()

    def lasting(self) -> list[fault_pb2.InjectedFault]:
        """What lasts, in the order in which it began."""
        return [active.told() for active in self._active.values()]

    def heal(self, fault_id: str) -> list[fault_pb2.InjectedFault]:
        """Ends one fault, or all: those that were ended. Raises `InvalidRequest` for an id that was never given."""
        known = fault_id.isascii() and fault_id.isdigit() and 0 < int(fault_id) <= self._last_id
        if fault_id and not known:
            raise InvalidRequest("id", f"{self._me} has had no fault {fault_id!r} since it was started: see kvctl fault list")
        healed = [active.told() for name, active in self._active.items() if fault_id in ("", name)]
        for fault in healed:
            self._end(fault.id, "healed")
        return healed

    def _end(self, fault_id: str, why: str) -> None:
        active = self._active.pop(fault_id)
        active.timer.cancel()
        self._apply()
        logger.warning("fault ended", fault=fault_id, why=why, **_words(active.fault))

    def _apply(self) -> None:
        by_kind: dict[str | None, list[_Active]] = {}
        for active in self._active.values():
            by_kind.setdefault(active.fault.WhichOneof("fault"), []).append(active)
        self._links.set({active.fault.id: active.fault.link for active in by_kind.get("link", ())})
        disks = [active.fault.disk for active in by_kind.get("disk", ())]
        delay = sum(disk.delay_ms for disk in disks) / 1000
        self._disk.set(DiskTrouble(delay, any(disk.full for disk in disks), any(disk.fail for disk in disks)))
        clocks = by_kind.get("clock", ())
        self._clock.set([ClockError(c.fault.clock.offset_ms, (c.fault.clock.rate or 1) - 1, c.since) for c in clocks])


def _words(fault: fault_pb2.InjectedFault) -> dict[str, object]:
    """What a fault is, for the log."""
    kind = fault.WhichOneof("fault")
    assert kind is not None
    return {"kind": kind, **MessageToDict(getattr(fault, kind), preserving_proto_field_name=True)}
