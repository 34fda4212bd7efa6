"""Who is alive: phi-accrual over heartbeats, confirmed by indirect probes. See docs/protocols/failure_detection.md."""

from kvnode.protocol.failure_detection.actions import Actions, MemberView, Phase, SuspicionChange, Transition
from kvnode.protocol.failure_detection.detector import FailureDetector
from kvnode.protocol.failure_detection.health import Progress
from kvnode.protocol.failure_detection.phi import phi
from kvnode.protocol.failure_detection.settings import FailureDetectionSettings

__all__ = [
    "Actions",
    "FailureDetectionSettings",
    "FailureDetector",
    "MemberView",
    "Phase",
    "Progress",
    "SuspicionChange",
    "Transition",
    "phi",
]
