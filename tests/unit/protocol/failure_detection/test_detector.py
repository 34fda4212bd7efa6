"""The failure detector's rules, one by one, on a hand-driven clock."""

from __future__ import annotations

from random import Random

from kvapi.v1.message_pb2 import (
    NODE_STATE_ACTIVE,
    NODE_STATE_FAILED,
    NODE_STATE_INACTIVE,
    NODE_STATE_RECOVERING,
    NodeState,
)
from kvnode.protocol.failure_detection import (
    Actions,
    FailureDetectionSettings,
    FailureDetector,
    Phase,
    Progress,
    SuspicionChange,
    Transition,
)


class Observer:
    """A detector with a clock that steps it as its deadlines ask, and keeps what it said."""

    def __init__(self, *peers: str, **settings: float) -> None:
        self.detector = FailureDetector("n1", peers, FailureDetectionSettings(**settings), Random(7))  # type: ignore[arg-type]
        self.peers = peers
        self.now = 100.0
        self.probes: list[tuple[str, str]] = []
        self.transitions: list[Transition] = []
        self.suspicions: list[SuspicionChange] = []
        self.beats = 0
        self.deadline = self.now
        self.step()

    def step(self) -> Actions:
        actions = self.detector.step(self.now)
        self.probes += actions.probe
        self.transitions += actions.transitions
        self.suspicions += actions.suspicions
        assert actions.deadline is not None
        self.deadline = actions.deadline
        return actions

    def hear(self, *peers: str, incarnation: int = 1, state: NodeState = NODE_STATE_ACTIVE, wait_ms: int = 0) -> None:
        self.beats += 1
        for peer in peers:
            progress = Progress(self.beats, 0 if wait_ms else self.beats, wait_ms)
            self.detector.on_heard(peer, self.now, incarnation, state, progress)

    def run(self, seconds: float, *beating: str) -> None:
        """Lets time pass with steps at every deadline and heartbeats of `beating` every 100 ms."""
        end, next_beat = self.now + seconds, self.now
        while self.now < end - 1e-9:
            if beating and self.now >= next_beat - 1e-9:
                self.hear(*beating)
                next_beat += 0.1
            self.step()
            self.now = min(end, max(self.deadline, self.now + 0.001), next_beat if beating else end)
        self.step()

    def answer(self, alive: bool, target: str) -> None:
        """Every helper asked about `target` answers."""
        for helper, probed in self.probes:
            if probed == target:
                self.detector.on_probe_result(helper, target, alive, self.now)
        self.step()

    def to_states(self, peer: str) -> list[NodeState]:
        return [transition.to_state for transition in self.transitions if transition.node == peer]


def test_peer_when_heard_takes_the_state_it_says() -> None:
    """Its own word decides between ACTIVE, INACTIVE and RECOVERING, and every change is a transition."""
    n1 = Observer("n2")
    assert n1.detector.state("n2") == NODE_STATE_INACTIVE
    for state in (NODE_STATE_RECOVERING, NODE_STATE_ACTIVE, NODE_STATE_ACTIVE, NODE_STATE_INACTIVE):
        n1.now += 0.1
        n1.hear("n2", state=state)
        n1.step()
        assert n1.detector.state("n2") == state
    assert n1.to_states("n2") == [NODE_STATE_RECOVERING, NODE_STATE_ACTIVE, NODE_STATE_INACTIVE]
    assert [round(n1.now - (transition.at or 0), 1) for transition in n1.transitions] == [0.3, 0.2, 0.0], "when it was heard"


def test_silence_below_the_floor_is_not_suspected_and_soon_after_it_is() -> None:
    """With heartbeats every 100 ms, 400 ms of silence are borne, and suspicion comes within 600 ms."""
    n1 = Observer("n2", "n3")
    n1.run(10.0, "n2", "n3")
    n1.run(0.300, "n3")
    assert not n1.detector.suspected("n2"), "silent for 400 ms"
    n1.run(0.200, "n3")
    assert n1.detector.suspected("n2"), "silent for 600 ms"
    assert n1.detector.phi("n2", n1.now) > 5.0
    assert [change.node for change in n1.suspicions] == ["n2"]


def test_silence_that_is_shorter_than_a_higher_floor_is_borne() -> None:
    """The floor holds although phi is far above the threshold."""
    n1 = Observer("n2", "n3", silence_ms_min=2000)
    n1.run(10.0, "n2", "n3")
    n1.run(1.8, "n3")
    assert n1.detector.phi("n2", n1.now) > 50.0
    assert not n1.detector.suspected("n2")


def test_suspect_that_all_helpers_call_dead_is_failed() -> None:
    """Two helpers are asked, never the suspect; FAILED comes with their word and not before."""
    n1 = Observer("n2", "n3", "n4")
    n1.run(10.0, "n2", "n3", "n4")
    n1.run(0.6, "n3", "n4")
    assert sorted(n1.probes) == [("n3", "n2"), ("n4", "n2")]
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    n1.answer(alive=False, target="n2")
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    failed = n1.transitions[-1]
    assert "confirmed by" in failed.why
    assert (failed.incarnation, failed.silent_ms) == (1, 700), "last heard 100 ms before the silence was let begin"
    assert failed.at == n1.now


def test_suspect_with_one_helper_silent_is_failed_by_the_other_after_the_wait() -> None:
    """A helper that never answers delays by 1.5 * probe_timeout_ms at most."""
    n1 = Observer("n2", "n3", "n4")
    n1.run(10.0, "n2", "n3", "n4")
    n1.run(0.6, "n3", "n4")
    n1.detector.on_probe_result("n3", "n2", False, n1.now)
    n1.run(0.2, "n3", "n4")
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    n1.run(0.3, "n3", "n4")
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert n1.transitions[-1].why.endswith("confirmed by n3")


def test_suspect_that_a_helper_reached_is_vouched_for_and_asked_about_again() -> None:
    """A bad link from here is no death: not FAILED, even past the ceiling, not routed to, and probed anew."""
    n1 = Observer("n2", "n3", "n4")
    n1.run(10.0, "n2", "n3", "n4")
    n1.run(0.6, "n3", "n4")
    n1.detector.on_probe_result("n3", "n2", True, n1.now)
    n1.detector.on_probe_result("n4", "n2", False, n1.now)
    n1.step()
    assert n1.detector.phase("n2") is Phase.VOUCHED
    assert not n1.detector.suspected("n2")
    assert not n1.detector.routable("n2")
    assert "n3 reached it" in n1.detector.why("n2")
    asked = len(n1.probes)
    n1.run(1.4, "n3", "n4")
    assert len(n1.probes) == asked
    n1.run(0.2, "n3", "n4")
    assert len(n1.probes) == asked + 2
    n1.run(0.1, "n3", "n4")
    n1.answer(alive=True, target="n2")
    n1.run(1.2, "n3", "n4")
    assert n1.now - (n1.detector.last_heard("n2") or 0.0) > 3.0
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE


def test_connection_lost_suspects_at_once_and_helpers_confirm() -> None:
    """A closed connection needs no silence for suspicion, and helpers' word for FAILED."""
    n1 = Observer("n2", "n3")
    n1.run(5.0, "n2", "n3")
    n1.detector.on_connection_lost("n2", n1.now)
    assert n1.step().probe == (("n3", "n2"),)
    assert n1.detector.suspected("n2")
    n1.answer(alive=False, target="n2")
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert "closed the connection" in n1.transitions[-1].why


def test_connection_lost_in_a_cluster_of_two_needs_refused_reconnects() -> None:
    """Without helpers one refusal may be a restarting listener; two confirm, long before silence would."""
    n1 = Observer("n2")
    n1.run(5.0, "n2")
    n1.detector.on_connection_lost("n2", n1.now)
    n1.run(0.05)
    n1.detector.on_connection_lost("n2", n1.now, refused=True)
    n1.run(0.05)
    assert n1.detector.suspected("n2")
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    n1.detector.on_connection_lost("n2", n1.now, refused=True)
    n1.step()
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert "may itself be cut off" in n1.transitions[-1].why


def test_connection_lost_and_heard_again_is_trusted() -> None:
    """A reconnect ends the suspicion and forgets the refusals."""
    n1 = Observer("n2")
    n1.run(5.0, "n2")
    n1.detector.on_connection_lost("n2", n1.now)
    n1.detector.on_connection_lost("n2", n1.now, refused=True)
    n1.run(0.05)
    n1.hear("n2")
    n1.detector.on_connection_lost("n2", n1.now, refused=True)
    n1.run(0.05)
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    n1.hear("n2")
    n1.step()
    assert not n1.detector.suspected("n2")


def test_silence_in_a_cluster_of_two_fails_at_the_higher_threshold() -> None:
    """With nobody to ask, phi_failed decides alone, and the reason says that we may be cut off."""
    n1 = Observer("n2")
    n1.run(10.0, "n2")
    n1.run(0.5)
    assert n1.detector.suspected("n2")
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    n1.run(0.2)
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert n1.transitions[-1].why.endswith("no other node could be asked: this node may itself be cut off")


def test_silence_of_an_erratic_peer_fails_at_the_ceiling() -> None:
    """Where the past was so irregular that phi stays low, the ceiling of 3 s decides."""
    n1 = Observer("n2", "n3")
    for turn in range(120):
        n1.run(0.05, "n3")
        n1.hear("n2")
        n1.run(min(1.9, 0.2 * 1.03**turn), "n3")
        n1.hear("n2")
    assert all(state != NODE_STATE_FAILED for state in n1.to_states("n2"))
    n1.run(2.5, "n3")
    assert not n1.detector.suspected("n2")
    n1.run(0.51, "n3")
    assert n1.detector.phi("n2", n1.now) < 8.0
    assert n1.detector.state("n2") == NODE_STATE_FAILED


def test_all_silent_at_once_do_not_probe_each_other_and_fail_with_a_doubt() -> None:
    """Cut off from everybody, this node asks nobody and says that it may be the one."""
    n1 = Observer("n2", "n3", "n4")
    n1.run(10.0, "n2", "n3", "n4")
    n1.run(1.0)
    assert n1.probes == []
    assert [n1.detector.state(peer) for peer in n1.peers] == [NODE_STATE_FAILED] * 3
    assert all("may itself be cut off" in transition.why for transition in n1.transitions[-3:])


def test_failed_peer_heard_again_is_what_it_says() -> None:
    """One heartbeat of the same life revives it; the outage does not spoil the window."""
    n1 = Observer("n2")
    n1.run(10.0, "n2")
    n1.run(2.0)
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    n1.hear("n2", state=NODE_STATE_RECOVERING)
    n1.step()
    assert n1.to_states("n2") == [NODE_STATE_ACTIVE, NODE_STATE_FAILED, NODE_STATE_RECOVERING]
    assert "heard again" in n1.transitions[-1].why
    assert [change.suspected for change in n1.suspicions] == [True, False]
    n1.run(0.7)
    assert n1.detector.state("n2") == NODE_STATE_FAILED


def test_heartbeat_of_a_stale_incarnation_is_ignored() -> None:
    """A message of an earlier life neither revives nor keeps alive."""
    n1 = Observer("n2")
    n1.hear("n2", incarnation=2)
    n1.run(2.0)
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    n1.hear("n2", incarnation=1)
    n1.step()
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert n1.detector.incarnation("n2") == 2
    n1.hear("n2", incarnation=3, state=NODE_STATE_RECOVERING)
    n1.step()
    assert n1.detector.state("n2") == NODE_STATE_RECOVERING


def test_peer_with_a_hanging_disk_is_suspected_without_a_change_of_state() -> None:
    """It answers, so it is not dead; it is avoided, and the reason names the disk."""
    n1 = Observer("n2", "n3")
    n1.run(5.0, "n2", "n3")
    n1.hear("n2", wait_ms=1_500)
    n1.step()
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    assert n1.detector.suspected("n2")
    assert not n1.detector.healthy("n2")
    assert not n1.detector.routable("n2")
    assert "disk" in n1.suspicions[-1].why
    assert n1.probes == []
    n1.run(0.1, "n2", "n3")
    assert n1.detector.routable("n2")
    assert not n1.suspicions[-1].suspected


def test_own_stall_of_ten_seconds_blames_nobody() -> None:
    """After SIGSTOP and SIGCONT the silence was ours: nobody is suspected, and the dead are still found."""
    n1 = Observer("n2", "n3")
    n1.run(10.0, "n2", "n3")
    n1.now += 10.0
    n1.run(0.29)
    assert n1.suspicions == []
    n1.run(5.0, "n2")
    assert n1.to_states("n2") == [NODE_STATE_ACTIVE]
    assert "n3" in [target for _, target in n1.probes]
    assert n1.detector.state("n3") == NODE_STATE_FAILED


def test_own_stall_seen_first_by_a_message_is_forgiven_too() -> None:
    """On waking the sockets may be read before the timers run: the stall is neither blamed nor learnt as an interval."""
    n1 = Observer("n2", "n3")
    n1.run(10.0, "n2", "n3")
    n1.now += 2.0
    n1.hear("n2")
    n1.step()
    assert n1.suspicions == []
    n1.run(0.6, "n3")
    assert n1.detector.suspected("n2"), "the stall was not learnt: suspicion comes as early as ever"


def test_own_stall_after_a_silence_leaves_time_to_read_what_waits() -> None:
    """A peer that was nearly suspected when we stood still is not suspected before its waiting heartbeats are read."""
    n1 = Observer("n2", "n3")
    n1.run(10.0, "n2", "n3")
    n1.run(0.4, "n3")
    n1.now += 5.0
    n1.run(0.15, "n3")
    assert n1.suspicions == []
    n1.run(0.2, "n3")
    assert n1.detector.suspected("n2")


def test_own_stall_while_helpers_are_asked_prolongs_the_wait() -> None:
    """Answers that came while we stood still are read before the round is judged by those that came before."""
    n1 = Observer("n2", "n3", "n4")
    n1.run(10.0, "n2", "n3", "n4")
    n1.run(0.6, "n3", "n4")
    n1.detector.on_probe_result("n3", "n2", False, n1.now)
    n1.now += 5.0
    n1.step()
    n1.detector.on_probe_result("n4", "n2", True, n1.now)
    n1.step()
    assert n1.detector.phase("n2") is Phase.VOUCHED


def test_peer_never_heard_is_inactive_until_the_ceiling_then_failed() -> None:
    """A cluster that starts gives everybody 3 s; refused connections before the first heartbeat mean nothing."""
    n1 = Observer("n2", "n3")
    n1.detector.on_connection_lost("n2", n1.now, refused=True)
    n1.run(2.4, "n3")
    assert n1.detector.state("n2") == NODE_STATE_INACTIVE
    assert not n1.detector.suspected("n2")
    n1.run(0.7, "n3")
    assert n1.detector.state("n2") == NODE_STATE_FAILED
    assert "never heard" in n1.transitions[-1].why


def test_peer_that_said_goodbye_stays_inactive() -> None:
    """A planned stop is no failure: INACTIVE by its own word, then closed and silent, it is never FAILED."""
    n1 = Observer("n2", "n3")
    n1.run(5.0, "n2", "n3")
    n1.hear("n2", state=NODE_STATE_INACTIVE)
    n1.detector.on_connection_lost("n2", n1.now)
    n1.run(10.0, "n3")
    assert n1.to_states("n2") == [NODE_STATE_ACTIVE, NODE_STATE_INACTIVE]
    assert n1.probes == []
    n1.hear("n2", incarnation=2, state=NODE_STATE_RECOVERING)
    n1.run(1.2, "n3")
    assert n1.to_states("n2")[2:] == [NODE_STATE_RECOVERING, NODE_STATE_FAILED]


def test_new_life_begins_without_the_habits_and_goodbyes_of_the_old() -> None:
    """Neither the old intervals, the time between, nor a goodbye excuse the next life's silence; its counts are new."""
    n1 = Observer("n2", "n3")
    n1.run(5.0, "n2", "n3")
    for _ in range(20):
        n1.run(0.45, "n3")
        n1.hear("n2")
    n1.hear("n2", state=NODE_STATE_INACTIVE)
    n1.run(2.0, "n3")
    for disk in (1, 2):
        n1.detector.on_heard("n2", n1.now, 2, NODE_STATE_INACTIVE, Progress(disk, disk, 5_000))
        assert n1.detector.healthy("n2")
    n1.run(0.6, "n3")
    assert n1.detector.suspected("n2")
    n1.run(0.5, "n3")
    assert n1.detector.state("n2") == NODE_STATE_FAILED


def test_probe_result_unasked_or_about_a_trusted_peer_changes_nothing() -> None:
    """Late and invented answers have no effect."""
    n1 = Observer("n2", "n3")
    n1.run(5.0, "n2", "n3")
    n1.detector.on_probe_result("n3", "n2", False, n1.now)
    n1.detector.on_probe_result("n9", "n8", False, n1.now)
    n1.hear("n9")
    n1.step()
    assert n1.detector.state("n2") == NODE_STATE_ACTIVE
    assert not n1.detector.suspected("n2")


def test_own_state_when_set_is_reported_once() -> None:
    """Own changes enter the same record as everybody's."""
    n1 = Observer("n2")
    for state in (NODE_STATE_RECOVERING, NODE_STATE_RECOVERING, NODE_STATE_ACTIVE):
        n1.detector.set_own_state(state, 7.0)
        n1.step()
    assert n1.to_states("n1") == [NODE_STATE_RECOVERING, NODE_STATE_ACTIVE]
    assert n1.detector.state("n1") == NODE_STATE_ACTIVE
    assert n1.detector.routable("n1")


def test_snapshot_shows_every_peer() -> None:
    """What Members reports: state, phi, last heard and why, by name."""
    n1 = Observer("n3", "n2")
    n1.run(5.0, "n3")
    n2, n3 = n1.detector.snapshot(n1.now)
    assert (n2.node, n2.state, n2.last_heard, n2.phi) == ("n2", NODE_STATE_FAILED, None, 0.0)
    assert (n3.node, n3.state, n3.suspected, n3.healthy) == ("n3", NODE_STATE_ACTIVE, False, True)
    assert n3.last_heard is not None


def test_detector_without_peers_has_no_deadline() -> None:
    """A single node has nobody to wait for."""
    detector = FailureDetector("n1", ["n1"], FailureDetectionSettings(), Random(1))
    assert detector.step(0.0).deadline is None
