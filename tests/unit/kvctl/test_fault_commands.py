"""`kvctl fault`, against a fake cluster over real gRPC: who is asked for what, and what is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvapi.v1 import fault_pb2
from kvctl.failures import ExitCode, Failure
from kvctl.fault_words import fault_text
from kvctl.faults import DISABLED, FaultClient, clock_fault, cut, disk_fault, link_fault
from tests.unit.kvctl.admin_cluster import serving
from tests.unit.kvctl.conftest import Run
from tests.unit.kvctl.fault_cluster import FaultyCluster

OUT, IN, BOTH = fault_pb2.LINK_DIRECTION_OUT, fault_pb2.LINK_DIRECTION_IN, fault_pb2.LINK_DIRECTION_BOTH


@contextmanager
def started(monkeypatch: pytest.MonkeyPatch, without: tuple[str, ...] = ()) -> Iterator[FaultyCluster]:
    """A cluster that KVCTL_ENDPOINTS names."""
    fake = FaultyCluster(without)
    with serving(fake) as do:
        monkeypatch.setenv("KVCTL_ENDPOINTS", fake.endpoints)
        fake.stop = lambda name: do(fake.nodes[name].stop())
        yield fake


@pytest.fixture
def cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyCluster]:
    """Three nodes that serve faults."""
    with started(monkeypatch) as fake:
        yield fake


def links(cluster: FaultyCluster) -> dict[str, list[tuple[str, int, float]]]:
    """The link faults: peer, direction, loss."""
    return {
        name: [(fault.link.peer, fault.link.direction, fault.link.loss) for fault in faults]
        for name, faults in cluster.injected.items()
    }


def test_link_both_ways_hurts_at_each_end_what_it_sends(run: Run, cluster: FaultyCluster) -> None:
    """So that a forwarded request is hurt too, and none is hurt twice."""
    result = run("fault", "link", "n1", "n2", "--loss", "0.25", "--delay", "50", "--jitter", "10", "--for", "30")
    assert result.code == 0
    assert links(cluster) == {"n1": [("n2", OUT, 0.25)], "n2": [("n1", OUT, 0.25)]}
    (fault,) = cluster.injected["n1"]
    assert (fault.duration_ms, fault.link.delay_ms, fault.link.jitter_ms) == (30_000, 50, 10)
    rows = [line.split("  ") for line in result.out.splitlines()]
    assert rows[0][0] == "NODE"
    assert "requests to n2: 0.25 lost, 50 to 60 ms late" in result.out
    assert "30.0 s" in result.out


def test_link_one_way_is_the_named_nodes_affair(run: Run, cluster: FaultyCluster) -> None:
    """--direction, seen from the first node; without a peer it is every peer."""
    assert run("fault", "link", "n1", "n2", "--cut", "--direction", "in").code == 0
    assert run("fault", "link", "n3", "--cut", "--direction", "out").code == 0
    assert links(cluster) == {"n1": [("n2", IN, 1.0)], "n3": [("", OUT, 1.0)]}


def test_link_to_a_node_that_does_not_answer_is_hurt_at_one_end(run: Run, cluster: FaultyCluster) -> None:
    """Both ways there, and the table says who was not reached."""
    cluster.stop("n2")
    result = run("fault", "link", "n1", "n2", "--cut", "-o", "json")
    assert result.code == 0
    assert links(cluster) == {"n1": [("n2", BOTH, 1.0)]}
    assert [fault["node"] for fault in result.json["faults"]] == ["n1"]
    assert result.json["not_asked"] == {"n2": "does not answer"}


def test_partition_cuts_every_link_between_the_sides_at_both_ends(run: Run, cluster: FaultyCluster) -> None:
    """And none within a side; the other side is everybody else where it is not given."""
    assert run("fault", "partition", "n1,n2", "n3", "--for", "5").code == 0
    expected = {"n1": [("n3", OUT, 1.0)], "n2": [("n3", OUT, 1.0)], "n3": [("n1", OUT, 1.0), ("n2", OUT, 1.0)]}
    assert links(cluster) == expected
    run("fault", "heal")
    assert run("fault", "partition", "n3").code == 0
    assert {name: sorted(found) for name, found in links(cluster).items()} == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("partition", "n1,n2", "n2"),
        ("partition", "n1,n2,n3"),
        ("partition", "n1", "n9"),
        ("partition", ","),
        ("link", "n1", "n2"),
        ("link", "n1", "n1", "--cut"),
        ("link", "n1", "n9", "--cut"),
        ("link", "n1", "n2", "--cut", "--loss", "0.5"),
        ("link", "n1", "n2", "--loss", "2"),
        ("link", "n1", "n2", "--cut", "--for", "3601"),
        ("link", "n1", "n2", "--delay", "-1"),
        ("disk", "n1"),
        ("disk", "n9", "--full"),
        ("clock", "n1"),
        ("clock", "n1", "--rate", "3"),
        ("heal", "n9"),
        ("heal", "--id", "3"),
    ],
)
def test_command_that_makes_no_sense_is_refused_before_anything_breaks(
    run: Run, cluster: FaultyCluster, arguments: tuple[str, ...]
) -> None:
    """Exit code 2, and nothing is injected anywhere."""
    result = run("fault", *arguments, "-o", "json")
    assert (result.code, result.error["reason"]) == (2, "USAGE")
    assert cluster.injected == {}


def test_disk_and_clock_faults_are_one_nodes(run: Run, cluster: FaultyCluster) -> None:
    """What was asked for, and nothing else."""
    assert run("fault", "disk", "n2", "--delay", "200").code == 0
    assert run("fault", "disk", "n2", "--full", "--fail").code == 0
    plain = run("fault", "clock", "n3", "--offset", "-5000", "--rate", "1.01", "-o", "json").json["faults"][0]
    assert [(one.disk.delay_ms, one.disk.full, one.disk.fail) for one in cluster.injected["n2"]] == [
        (200, False, False),
        (0, True, True),
    ]
    assert (plain["node"], plain["kind"], plain["clock"]) == ("n3", "clock", {"offset_ms": -5000, "rate": 1.01})
    assert plain["duration_ms"] == 60_000


def test_refusal_of_a_node_is_shown_with_its_words(run: Run, cluster: FaultyCluster) -> None:
    """What the server's bounds say is what the user reads."""
    cluster.nodes["n1"].refuses = "fault.clock.offset_ms: too far"
    result = run("fault", "clock", "n1", "--offset", "999999")
    assert result.code == 2
    assert "fault.clock.offset_ms: too far" in result.err


def test_list_shows_all_nodes_and_heal_ends_what_is_named(run: Run, cluster: FaultyCluster) -> None:
    """All, those of a node, or one; of a node that does not answer nothing is claimed."""
    run("fault", "disk", "n1", "--full")
    run("fault", "disk", "n1", "--delay", "5")
    run("fault", "clock", "n2", "--offset", "7")
    shown = [line.split()[:2] for line in run("fault", "list").out.splitlines()]
    assert shown == [["NODE", "ID"], ["n1", "1"], ["n1", "2"], ["n2", "1"]]
    assert len(run("fault", "list", "-o", "json").json["faults"]) == 3
    assert run("fault", "heal", "n1", "--id", "2").out == "healed  n1  2  disk: each write and sync 5 ms late\n"
    assert run("fault", "heal", "n1").out == "healed  n1  1  disk: full\n"
    assert list(cluster.injected) == ["n2"]
    assert run("fault", "heal", "-o", "json").json["healed"][0]["node"] == "n2"
    assert run("fault", "heal").out == "there was nothing to heal\n"
    cluster.stop("n3")
    assert run("fault", "heal").out == "there was nothing to heal where somebody answered\n"


def test_cluster_without_fault_injection_says_how_to_enable_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 6, the setting's name, and the playground's command."""
    with started(monkeypatch, without=("n1", "n2", "n3")):
        for arguments in (("list",), ("heal",), ("partition", "n1"), ("disk", "n1", "--full")):
            result = run("fault", *arguments)
            assert result.code == ExitCode.REFUSED
            assert "kvctl cluster up --set faults.enabled=true" in result.err.replace("\n", " ")
        assert run("fault", "list", "-o", "json").error["reason"] == DISABLED


def test_node_without_fault_injection_stops_a_partition_before_it_begins(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a partition would be a surprise; list still shows what the others have."""
    with started(monkeypatch, without=("n3",)) as cluster:
        result = run("fault", "partition", "n1", "-o", "json")
        assert result.error["reason"] == DISABLED
        assert cluster.injected == {}
        assert run("fault", "disk", "n1", "--full").code == 0
        plain = run("fault", "list", "-o", "json").json
        assert [fault["node"] for fault in plain["faults"]] == ["n1"]
        assert list(plain["not_asked"]) == ["n3"]
        assert "serves no faults" in run("fault", "list").out


def test_node_that_does_not_answer_fails_a_fault_of_its_own(run: Run, cluster: FaultyCluster) -> None:
    """Exit code 4; list and heal go on without it."""
    cluster.stop("n3")
    for arguments in (("disk", "n3", "--full"), ("heal", "n3"), ("link", "n3", "--cut", "--direction", "out")):
        assert run("fault", *arguments).code == ExitCode.UNAVAILABLE
    assert run("fault", "list", "-o", "json").json["not_asked"] == {"n3": "does not answer"}
    assert run("fault", "heal").code == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (cut("n2"), "link with n2: cut"),
        (cut(direction="in"), "what comes from all nodes: cut"),
        (link_fault("n2", delay_ms=50, direction="out"), "requests to n2: 50 ms late"),
        (link_fault("n2", jitter_ms=5), "link with n2: 0 to 5 ms late"),
        (disk_fault(delay_ms=3, full=True, fail=True), "disk: each write and sync 3 ms late, full, the next sync fails"),
        (clock_fault(offset_ms=-5), "clock: 5 ms behind"),
        (clock_fault(offset_ms=5, rate=1.01), "clock: 5 ms ahead, runs at 1.01"),
        (fault_pb2.InjectedFault(), "unknown to this kvctl"),
    ],
)
def test_fault_in_words_says_what_is_wrong(fault: fault_pb2.InjectedFault, words: str) -> None:
    """One line a fault."""
    assert fault_text(fault) == words


def test_fault_client_injects_lists_and_heals_by_address(cluster: FaultyCluster) -> None:
    """What a test's nemesis calls, without the command line; the caller's message is not changed."""
    address = cluster.nodes["n2"].address
    wanted = cut("n3")
    with FaultClient() as client:
        begun = client.inject(address, wanted, for_s=2.5)
        assert (begun.id, begun.duration_ms, begun.link.peer) == ("1", 2500, "n3")
        assert wanted == cut("n3")
        assert client.active(address) == [begun]
        assert client.heal(address, begun.id) == [begun]
        assert client.heal(address) == []


def test_fault_client_tells_failures_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not enabled, not there, refused: each with its reason."""
    with started(monkeypatch, without=("n2",)) as cluster, FaultClient(2.0) as client:
        cluster.nodes["n1"].refuses = "fault.link.peer: unknown"
        cluster.stop("n3")
        reasons = []
        for name in ("n1", "n2", "n3"):
            with pytest.raises(Failure) as caught:
                client.inject(cluster.nodes[name].address, cut())
            reasons.append(caught.value.reason)
        assert reasons == ["INVALID_ARGUMENT", DISABLED, "UNAVAILABLE"]
