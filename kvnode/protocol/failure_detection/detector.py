"""The failure detector of one node: what it thinks of every other node of the cluster, and why.

Like a colleague who knows how often you usually answer: silence longer than usual makes it suspicious, a slammed door at
once, but before it calls you dead it asks two others to knock.

Owns the state of every peer, its suspicion, and the rounds of probes. Never does I/O, never reads a clock, and never
grants anything: its word chooses routes and starts elections early; votes, leases and commits do not ask it.

Invariants:
- FAILED is reached only through suspicion and then confirmation (docs/protocols/failure_detection.md has the table).
- No silence shorter than the floor is suspected; only a lost connection is.
- Time in which this node itself stood still is never counted as somebody's silence.
- What a peer says is believed only from its latest incarnation.

Sources: Hayashibara et al. 2004 (phi), SWIM 2002 section 3.1 (probes), Lifeguard (Dadgar, Phillips, Currey, 2017) for
doubting oneself first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from kvapi.v1 import failure_detection_pb2
from kvapi.v1.message_pb2 import (
    NODE_STATE_ACTIVE,
    NODE_STATE_FAILED,
    NODE_STATE_INACTIVE,
    NODE_STATE_RECOVERING,
    NodeState,
)
from kvnode.protocol.failure_detection.actions import Actions, MemberView, Phase, SuspicionChange, Transition
from kvnode.protocol.failure_detection.confirmation import Confirmation, Verdict, choose_helpers
from kvnode.protocol.failure_detection.health import Health, Progress
from kvnode.protocol.failure_detection.phi import ArrivalWindow, deviations_at, phi
from kvnode.protocol.failure_detection.settings import FailureDetectionSettings
from kvnode.types import NodeName, Seconds

INTERVALS_KEPT: Final = 100
"""Per peer. With two arrivals every 100 ms the detector forgets a bad moment within 5 to 10 s."""
REFUSALS_MIN: Final = 2
"""Refused connection attempts since it was last heard that stand for a confirmation when nobody else can be asked. Two,
because the first may fall into a restart of the listener."""
PROBE_WAIT_FACTOR: Final = 1.5
"""A helper answers "dead" after probe_timeout_ms; its answer is waited for half as long again."""
GRACE_INTERVALS: Final = 2
"""After a stall of our own, no silence is judged for so many heartbeat intervals: the answers wait in our sockets."""


@dataclass(slots=True)
class _Peer:
    name: NodeName
    arrivals: ArrivalWindow
    silent_since: Seconds
    """When it was last heard, moved forward by stalls of our own; before it was ever heard, when we started."""
    state: NodeState = NODE_STATE_INACTIVE
    phase: Phase = Phase.TRUSTED
    incarnation: int = 0
    heard_at: Seconds | None = None
    health: Health = field(default_factory=Health)
    left: bool = False
    """It said goodbye: it went from serving to INACTIVE by its own word. Its silence is no failure."""
    refusals: int = 0
    why: str = ""
    confirmation: Confirmation | None = None
    vouched_until: Seconds = 0.0
    reported_suspected: bool = False


class FailureDetector:
    """One per node. Call `step` after events and no later than the deadline it returned; it never blocks.

    `now` is monotonic seconds everywhere; a value older than one seen before counts as the latest one seen. Events about
    nodes that are not peers are ignored; queries about them raise KeyError.
    """

    def __init__(self, me: NodeName, peers: Sequence[NodeName], config: FailureDetectionSettings, rng: Random) -> None:
        self._me = me
        self._own_state: NodeState = NODE_STATE_INACTIVE
        self._config = config
        self._rng = rng
        self._interval: Seconds = config.heartbeat_interval_ms / 1000.0
        self._floor: Seconds = config.silence_ms_min / 1000.0
        self._ceiling: Seconds = config.silence_ms_max / 1000.0
        self._probe_wait: Seconds = PROBE_WAIT_FACTOR * config.probe_timeout_ms / 1000.0
        self._suspected_deviations = deviations_at(config.phi_suspected)
        self._failed_deviations = deviations_at(config.phi_failed)
        self._peers = {name: _Peer(name, self._new_window(), 0.0) for name in sorted(peers) if name != me}
        self._now: Seconds | None = None
        self._deadline: Seconds | None = None
        self._grace_until: Seconds = 0.0
        self._transitions: list[Transition] = []

    # Events.

    def on_heard(
        self,
        peer: NodeName,
        now: Seconds,
        incarnation: int,
        state: NodeState,
        progress: Progress | failure_detection_pb2.Progress,
    ) -> None:
        """A heartbeat of `peer`, or an answer to ours: it lives, and `state` is its own word about itself."""
        now = self._observe_time(now)
        known = self._peers.get(peer)
        if known is None or incarnation < known.incarnation:
            return  # A message of a life that is over must not revive it, nor hide that the new one is silent.
        if incarnation > known.incarnation:
            known.incarnation, known.heard_at, known.left = incarnation, None, False
            known.arrivals, known.health = self._new_window(), Health()
        silence = now - known.silent_since
        if known.heard_at is not None and known.phase in (Phase.TRUSTED, Phase.SUSPECTED) and silence <= self._ceiling:
            # Intervals of false suspicions are kept: so the detector learns how slow this peer can be. An outage is not
            # an interval; one of it would make the detector sleepy for the whole window.
            known.arrivals.add(silence)
        known.heard_at = known.silent_since = now
        known.refusals = 0
        known.health.on_progress(progress, now)
        was_failed = known.phase is Phase.FAILED
        known.phase = Phase.TRUSTED
        known.why = known.health.why
        self._take_word(known, state, f"heard again after {silence * 1000:.0f} ms" if was_failed else "says so itself")

    def on_connection_lost(self, peer: NodeName, now: Seconds, refused: bool = False) -> None:
        """Its end closed the connection, or (`refused`) a new attempt was refused: nobody listens there.

        A strong hint, since kernels close the connections of a dead process: suspected at once, floor or not. But a
        proxy or a restarting listener closes too, so FAILED still waits for helpers, or, where nobody can be asked, for
        REFUSALS_MIN refused attempts. Before a peer was ever heard this means nothing: it may just not have started.
        """
        now = self._observe_time(now)
        known = self._peers.get(peer)
        if known is None or known.heard_at is None or known.left:
            return
        known.refusals += refused
        if known.phase is Phase.TRUSTED:
            self._suspect(known, "it refuses connections" if refused else "it closed the connection")

    def on_probe_result(self, helper: NodeName, target: NodeName, alive: bool, now: Seconds) -> None:
        """A helper's answer. Late, repeated and unasked ones change nothing."""
        self._observe_time(now)
        known = self._peers.get(target)
        if known is not None and known.confirmation is not None:
            known.confirmation.on_answer(helper, alive)

    def set_own_state(self, state: NodeState, now: Seconds | None = None, why: str = "says so itself") -> None:
        """This node's own state, as its heartbeats say it; reported as a transition by the next `step`, as of `now`."""
        if state != self._own_state:
            self._transitions.append(Transition(self._me, self._own_state, state, why, 0, now))
            self._own_state = state

    # The step.

    def step(self, now: Seconds) -> Actions:
        """Judges every silence and every open round of probes."""
        now = self._observe_time(now)
        for peer in self._peers.values():
            self._judge_silence(peer, now)
        # Only when all new suspects are known: one suspect must not be asked about another.
        probe = tuple(pair for peer in self._peers.values() for pair in self._open_confirmation(peer, now))
        for peer in self._peers.values():
            self._judge_confirmation(peer, now)
        transitions, self._transitions = tuple(self._transitions), []
        self._deadline = self._next_deadline(now)
        return Actions(probe, transitions, self._suspicion_changes(), self._deadline)

    def _judge_silence(self, peer: _Peer, now: Seconds) -> None:
        if peer.left:
            return
        if peer.phase is Phase.TRUSTED and now >= self._suspected_at(peer):
            self._suspect(peer, "no heartbeat" if peer.heard_at is not None else "never heard")
        elif peer.phase is Phase.VOUCHED and now >= peer.vouched_until:
            self._suspect(peer, "still no heartbeat here")

    def _suspect(self, peer: _Peer, why: str) -> None:
        peer.phase, peer.why, peer.confirmation = Phase.SUSPECTED, why, None

    def _open_confirmation(self, peer: _Peer, now: Seconds) -> tuple[tuple[NodeName, NodeName], ...]:
        if peer.phase is not Phase.SUSPECTED or peer.confirmation is not None:
            return ()
        candidates = [
            other.name
            for other in self._peers.values()
            if other.phase is Phase.TRUSTED and other.heard_at is not None and not other.left
        ]
        helpers = choose_helpers(candidates, self._config.probe_helpers, self._rng)
        peer.confirmation = Confirmation(helpers, now + self._probe_wait)
        return tuple((helper, peer.name) for helper in helpers)

    def _judge_confirmation(self, peer: _Peer, now: Seconds) -> None:
        if peer.phase is not Phase.SUSPECTED or peer.confirmation is None:
            return
        verdict = peer.confirmation.verdict(now)
        if verdict is Verdict.ALIVE:
            peer.phase = Phase.VOUCHED
            # Not longer: a peer that dies while vouched for is found only after this.
            peer.vouched_until = now + self._ceiling / 2.0
            peer.why = f"{peer.why}, but {peer.confirmation.said(alive=True)} reached it: the link from here is bad"
            peer.confirmation = None
        elif verdict is Verdict.DEAD:
            self._fail(peer, now, f"confirmed by {peer.confirmation.said(alive=False)}")
        elif verdict is Verdict.UNANSWERED and now >= self._failed_alone_at(peer):
            whom = "the nodes asked did not answer" if peer.confirmation.asked else "no other node could be asked"
            self._fail(peer, now, f"unconfirmed, as {whom}: this node may itself be cut off")

    def _fail(self, peer: _Peer, now: Seconds, confirmed: str) -> None:
        silence_ms = (now - peer.silent_since) * 1000.0
        peer.why = f"{peer.why}; silent for {silence_ms:.0f} ms, phi {self._phi_of(peer, now):.1f}; {confirmed}"
        peer.phase, peer.confirmation = Phase.FAILED, None
        self._change_state(peer, NODE_STATE_FAILED, peer.why, round(silence_ms))

    # What is due when.

    def _suspected_at(self, peer: _Peer) -> Seconds:
        """When its silence becomes suspicious, early enough for a confirmation before the ceiling."""
        latest = max(self._floor, self._ceiling - self._probe_wait)
        return self._silent_until(peer, self._suspected_deviations, latest)

    def _failed_alone_at(self, peer: _Peer) -> Seconds:
        """When its silence suffices without anybody's confirmation."""
        if peer.refusals >= REFUSALS_MIN:
            return peer.silent_since
        return self._silent_until(peer, self._failed_deviations, self._ceiling)

    def _silent_until(self, peer: _Peer, deviations: float, latest: Seconds) -> Seconds:
        silence = latest
        if peer.heard_at is not None:
            silence = min(max(peer.arrivals.mean + deviations * peer.arrivals.std, self._floor), latest)
        return max(peer.silent_since + silence, self._grace_until)

    def _next_deadline(self, now: Seconds) -> Seconds | None:
        """At most one heartbeat interval ahead: the less time passes between steps, the better a stall is seen."""
        if not self._peers:
            return None
        due = now + self._interval
        for peer in self._peers.values():
            if peer.left or peer.phase is Phase.FAILED:
                continue
            if peer.phase is Phase.TRUSTED:
                at = self._suspected_at(peer)
            elif peer.phase is Phase.VOUCHED:
                at = peer.vouched_until
            elif peer.confirmation is not None and now < peer.confirmation.until:
                at = peer.confirmation.until
            else:
                at = self._failed_alone_at(peer)
            due = min(due, at)
        return max(due, now)

    # Time, and our own stalls.

    def _observe_time(self, now: Seconds) -> Seconds:
        """Monotonic `now`; forgives everybody the time in which this node itself did not run.

        If we come much later than our deadline, we were stopped, swapped out or busy, and could not have heard anybody.
        Lifeguard's lesson: a slow member blames others. Shifting, instead of resetting, keeps the silence that we did
        observe, so that a node that stalls now and then still finds the dead.
        """
        if self._now is None:
            self._now = now
            for peer in self._peers.values():
                peer.silent_since = now
        self._now = now = max(now, self._now)
        if self._deadline is not None and now - self._deadline > self._interval:
            late = now - self._deadline
            for peer in self._peers.values():
                peer.silent_since = min(now, peer.silent_since + late)
                peer.vouched_until += late
                if peer.confirmation is not None:
                    peer.confirmation.until += late
            self._grace_until = now + GRACE_INTERVALS * self._interval
            self._deadline = now  # Forgiven once; the driver is now late from here.
        return now

    # Changes of state.

    def _take_word(self, peer: _Peer, state: NodeState, why: str) -> None:
        """Its own word; a word that a living node cannot say of itself counts as not serving."""
        serving = state in (NODE_STATE_ACTIVE, NODE_STATE_RECOVERING)
        if serving:
            peer.left = False
        elif peer.state in (NODE_STATE_ACTIVE, NODE_STATE_RECOVERING):
            peer.left = True
        self._change_state(peer, state if serving else NODE_STATE_INACTIVE, why)

    def _change_state(self, peer: _Peer, state: NodeState, why: str, silent_ms: int = 0) -> None:
        if state != peer.state:
            self._transitions.append(Transition(peer.name, peer.state, state, why, peer.incarnation, self._now, silent_ms))
            peer.state = state

    def _suspicion_changes(self) -> tuple[SuspicionChange, ...]:
        changes = []
        for peer in self._peers.values():
            suspected = self.suspected(peer.name)
            if suspected != peer.reported_suspected:
                peer.reported_suspected = suspected
                changes.append(SuspicionChange(peer.name, suspected, peer.why or "heard again"))
        return tuple(changes)

    # Queries.

    def state(self, peer: NodeName) -> NodeState:
        """Its public state; INACTIVE while it was never heard. Of this node: what `set_own_state` said."""
        return self._own_state if peer == self._me else self._peers[peer].state

    def phi(self, peer: NodeName, now: Seconds) -> float:
        """How suspicious its present silence is; 0 of this node and of a peer that was never heard."""
        return 0.0 if peer == self._me else self._phi_of(self._peers[peer], now)

    def last_heard(self, peer: NodeName) -> Seconds | None:
        """When it was last heard, monotonic seconds; None: never."""
        return self._peers[peer].heard_at

    def incarnation(self, peer: NodeName) -> int:
        """The latest incarnation heard; 0: none."""
        return self._peers[peer].incarnation

    def phase(self, peer: NodeName) -> Phase:
        """What this node thinks of it."""
        return self._peers[peer].phase

    def suspected(self, peer: NodeName) -> bool:
        """Suspected or FAILED, or its disk or event loop hangs. Not while another node vouches for it."""
        known = self._peers[peer]
        return known.phase in (Phase.SUSPECTED, Phase.FAILED) or bool(known.health.why)

    def healthy(self, peer: NodeName) -> bool:
        """Whether its disk and its event loop moved, as far as it said; says nothing about silence."""
        return not self._peers[peer].health.why

    def routable(self, peer: NodeName) -> bool:
        """Whether to send it requests from here: ACTIVE, healthy, and heard by this very node in time."""
        if peer == self._me:
            return self._own_state == NODE_STATE_ACTIVE
        known = self._peers[peer]
        return known.state == NODE_STATE_ACTIVE and known.phase is Phase.TRUSTED and not known.health.why

    def why(self, peer: NodeName) -> str:
        """Why it is suspected, vouched for, failed or unhealthy; empty if nothing is wrong."""
        return self._peers[peer].why

    def snapshot(self, now: Seconds) -> tuple[MemberView, ...]:
        """All peers by name, without this node."""
        return tuple(
            MemberView(
                peer.name,
                peer.state,
                peer.incarnation,
                self._phi_of(peer, now),
                peer.heard_at,
                self.suspected(peer.name),
                not peer.health.why,
                peer.why,
            )
            for peer in self._peers.values()
        )

    def _phi_of(self, peer: _Peer, now: Seconds) -> float:
        if peer.heard_at is None:
            return 0.0
        return phi(max(0.0, now - peer.silent_since), peer.arrivals.mean, peer.arrivals.std)

    def _new_window(self) -> ArrivalWindow:
        return ArrivalWindow(self._interval, INTERVALS_KEPT)
