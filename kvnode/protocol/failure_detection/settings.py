"""What an operator may tune in failure detection, and the trade-off beside each field.

Owns no behaviour. The formulas are in phi.py, the rules in detector.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvnode.invariant import invariant


@dataclass(frozen=True, slots=True)
class FailureDetectionSettings:
    """The `[failure_detection]` table. All durations in milliseconds of monotonic time."""

    heartbeat_interval_ms: int = 100
    """Between heartbeats to one peer. It is also the least mean and the least standard deviation that the detector
    assumes, so suspicion comes no earlier than (1 + 4.3) intervals at phi_suspected = 5."""
    phi_suspected: float = 5.0
    """Suspect at this phi: with a correct model one false suspicion in 10^phi intervals."""
    phi_failed: float = 8.0
    """Without anybody to confirm, FAILED at this phi."""
    silence_ms_min: int = 400
    """Floor: shorter silence is never suspicious, however regular the heartbeats were."""
    silence_ms_max: int = 3000
    """Ceiling: after so long a silence a peer is FAILED whatever phi says, unless another node vouches for it."""
    probe_timeout_ms: int = 300
    """How long a helper waits for the node that it probes. Its answer is waited for half as long again."""
    probe_helpers: int = 2
    """Nodes asked to probe a suspect."""

    def __post_init__(self) -> None:
        invariant(self.heartbeat_interval_ms > 0, "heartbeat_interval_ms must be positive")
        invariant(0 < self.phi_suspected <= self.phi_failed, "phi_suspected must be positive and at most phi_failed")
        invariant(0 < self.silence_ms_min <= self.silence_ms_max, "silence_ms_min must be positive, at most silence_ms_max")
        invariant(self.probe_timeout_ms > 0 and self.probe_helpers >= 0, "probe_timeout_ms and probe_helpers: out of range")
