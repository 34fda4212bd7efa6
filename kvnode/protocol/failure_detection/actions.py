"""What the failure detector tells its driver, and how it shows a member.

Owns words only: no rule lives here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kvapi.v1.message_pb2 import NodeState
from kvnode.types import NodeName, Seconds


class Phase(enum.Enum):
    """What this node thinks of a peer; the public `NodeState` follows from it."""

    TRUSTED = "trusted"
    SUSPECTED = "suspected"
    """A round of probes is open, or went unanswered."""
    VOUCHED = "vouched"
    """Silent here, but a helper reached it: not failed, asked about again later."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Transition:
    """A node changed state. To be recorded durably: the availability report is made of these."""

    node: NodeName
    from_state: NodeState
    to_state: NodeState
    why: str
    incarnation: int
    at: Seconds | None = None
    """When it was noticed, monotonic seconds; None: that was not said."""
    silent_ms: int = 0
    """To FAILED: how long it had been silent, without the time in which the observer itself stood still."""


@dataclass(frozen=True, slots=True)
class SuspicionChange:
    """`suspected(node)` changed. For logs, routes and `Gossip.report_suspicion`; not a change of state."""

    node: NodeName
    suspected: bool
    why: str


@dataclass(frozen=True, slots=True)
class Actions:
    """What the driver does now. Nothing of it must reach the disk before anything else."""

    probe: tuple[tuple[NodeName, NodeName], ...] = ()
    """(helper, target): send ProbeRequest(target) to the helper with a deadline of 1.5 * probe_timeout_ms; call
    `on_probe_result` with its answer, or not at all if there is none."""
    transitions: tuple[Transition, ...] = ()
    suspicions: tuple[SuspicionChange, ...] = ()
    deadline: Seconds | None = None
    """Call `step` no later than this (monotonic seconds); being late counts as a stall of this node."""


@dataclass(frozen=True, slots=True)
class MemberView:
    """One node as this one sees it: what `Cluster.Members` reports."""

    node: NodeName
    state: NodeState
    incarnation: int
    phi: float
    last_heard: Seconds | None
    """Monotonic seconds; None: never, or this node itself."""
    suspected: bool
    healthy: bool
    why: str
