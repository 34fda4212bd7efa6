"""The playground's processes, shown with small shell programs in the daemon's place."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvctl import process
from kvctl.daemons import free_base_port
from kvctl.playground import Playground, PlaygroundError
from kvctl.playground_files import PlaygroundFiles
from kvctl.process import ProcessState

SLEEPER = ["/bin/sh", "-c", "echo started with {config}; exec sleep 60"]
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.01; done"]

Make = Callable[..., Playground]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes playgrounds whose daemons are stand-ins, and tears them down."""
    made: list[Playground] = []

    def create(command: list[str] = SLEEPER, nodes: int = 2) -> Playground:
        made.append(Playground.create(tmp_path / "pg", nodes, free_base_port(nodes), command=command))
        return made[-1]

    yield create
    for playground in made:
        if playground.directory.exists():
            playground.down(timeout_s=0.0)


def spawn_all(playground: Playground) -> list[str]:
    """What `up` does before it waits for the cluster to serve."""
    files = PlaygroundFiles(playground.directory)
    with files.changing() as record:
        return [name for name in record.nodes if playground._daemons.start(record, name)]


def test_start_records_the_process_for_other_objects_to_see(make: Make) -> None:
    """A second Playground on the same directory, as in another kvctl, sees the pids of the first."""
    playground = make()
    assert spawn_all(playground) == ["n1", "n2"]
    assert [node.pid for node in Playground(playground.directory).nodes] == [node.pid for node in playground.nodes]
    assert {node.state for node in playground.nodes} == {"running"}


def test_start_of_a_running_node_does_nothing(make: Make) -> None:
    """Starting twice is one process."""
    playground = make()
    spawn_all(playground)
    pid = playground.node("n1").pid
    assert spawn_all(playground) == []
    assert playground.node("n1").pid == pid


def test_stop_and_kill_end_the_process_and_only_that_one(make: Make) -> None:
    """A stopped or killed node is stopped, its neighbour runs on; ending it again is no error."""
    playground = make()
    spawn_all(playground)
    assert playground.stop("n1") < 5.0
    assert [node.state for node in playground.nodes] == ["stopped", "running"]
    playground.kill("n2")
    assert [node.state for node in playground.nodes] == ["stopped", "stopped"]
    assert playground.stop("n1") == playground.kill("n2") == 0.0


def test_stop_of_a_node_that_ignores_it_says_so_and_kill_ends_it(make: Make) -> None:
    """The wait for a graceful stop is bounded, and its error names the way out."""
    playground = make(STUBBORN, nodes=1)
    spawn_all(playground)
    wait_log(playground, "deaf")
    with pytest.raises(PlaygroundError, match="still runs") as caught:
        playground.stop("n1", timeout_s=0.02)
    assert "cluster kill n1" in caught.value.hint
    assert playground.node("n1").state == "running"
    playground.kill("n1")
    assert playground.node("n1").state == "stopped"


def test_down_ends_paused_and_stubborn_nodes_too(make: Make) -> None:
    """Taking a playground down leaves no process behind, whatever state it is in."""
    playground = make(STUBBORN)
    spawn_all(playground)
    wait_log(playground, "deaf")
    playground.pause("n2")
    assert playground.node("n2").state == "paused"
    assert set(playground.down(timeout_s=0.02)) == {"n1", "n2"}
    assert {node.state for node in playground.nodes} == {"stopped"}


def test_stop_of_a_paused_node_ends_it(make: Make) -> None:
    """A frozen process cannot act on SIGTERM, so it is let go first."""
    playground = make(nodes=1)
    spawn_all(playground)
    playground.pause("n1")
    playground.stop("n1", timeout_s=5.0)
    assert playground.node("n1").state == "stopped"


def test_pause_of_a_stopped_node_is_refused(make: Make) -> None:
    """Pausing what does not run is an error that says how to start it."""
    with pytest.raises(PlaygroundError, match="n1 does not run") as caught:
        make().pause("n1")
    assert "cluster start n1" in caught.value.hint


def test_node_that_died_by_itself_is_reported_with_its_last_words(make: Make) -> None:
    """Waiting for a cluster whose daemon fell over at start ends at once, with the tail of its log."""
    playground = make(["/bin/sh", "-c", "echo cannot open the store; exit 1"], nodes=1)
    with pytest.raises(PlaygroundError, match=r"n1 .* died") as caught:
        playground.up(timeout_s=5.0)
    assert "cannot open the store" in caught.value.log_tail
    assert playground.node("n1").state == "stopped"


def test_stale_pid_of_another_process_is_never_touched(make: Make) -> None:
    """The recorded pid may be a stranger's by now: down leaves it alone, and the node counts as died."""
    playground = make(nodes=1)
    spawn_all(playground)
    files = PlaygroundFiles(playground.directory)
    with files.changing() as record:
        real = record.nodes["n1"].process
        assert real is not None
        record.nodes["n1"].process = process.ProcessId(real.pid, real.start_ticks + 1, real.boot_id)
    assert playground.node("n1").state == "died"
    playground.down()
    assert process.state_of(real) is ProcessState.RUNNING
    with files.changing() as record:
        record.nodes["n1"].process = real


def test_port_that_is_taken_is_named_before_anything_starts(make: Make) -> None:
    """A foreign listener on a node's port is an error that names the node and the address."""
    playground = make(nodes=1)
    address = playground.endpoints[0]
    listener = socket.create_server(("127.0.0.1", int(address.rpartition(":")[2])))
    with listener, pytest.raises(PlaygroundError, match=f"n1 cannot listen on {address}"):
        playground.up()
    assert playground.node("n1").state == "stopped"


def test_identity_in_the_environment_does_not_reach_the_daemons(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVNODE_NODE__NAME in the shell would otherwise give every node the same name; other settings pass."""
    monkeypatch.setenv("KVNODE_NODE__NAME", "intruder")
    monkeypatch.setenv("KVNODE_LOG__LEVEL", "debug")
    playground = make(["/bin/sh", "-c", "echo name=$KVNODE_NODE__NAME level=$KVNODE_LOG__LEVEL.; exec sleep 60"], nodes=1)
    spawn_all(playground)
    wait_log(playground, "name= level=debug.")


def wait_log(playground: Playground, text: str) -> None:
    """Wait until every node has written a text: the program is up."""
    import time

    deadline = time.monotonic() + 5.0
    while not all(text in playground.log_tail(node.name) for node in playground.nodes):
        assert time.monotonic() < deadline, [playground.log_tail(node.name) for node in playground.nodes]
        time.sleep(0.001)
