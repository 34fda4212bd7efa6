"""`kvctl cluster ...`, with a small daemon in kvnode's place: real processes, real ports, real gRPC."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from kvctl import daemons
from kvctl.app import app
from kvctl.command import last_playground, remember_playground, state_directory
from kvctl.playground import Playground, PlaygroundError, free_base_port
from kvctl.playground_commands import complete_node
from kvctl.playground_files import PlaygroundFiles
from tests.unit.kvctl.conftest import Run

FAKE_DAEMON = (sys.executable, str(Path(__file__).with_name("fake_daemon.py")), "{config}")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a playground of fake daemons may live; nothing of it is left afterwards."""
    monkeypatch.setattr(daemons, "DAEMON", FAKE_DAEMON)
    monkeypatch.setattr(daemons, "CHECK", ("/bin/true",))
    yield tmp_path / "pg"
    if (tmp_path / "pg" / "cluster.json").exists():
        Playground(tmp_path / "pg").down(timeout_s=1.0)


def test_playground_life_from_up_to_purge(run: Run, directory: Path) -> None:
    """Up prints the endpoints once the cluster serves; nodes end and start as told; down keeps the data, purge does not."""
    port, where = free_base_port(2), ("--dir", str(directory))
    endpoints = f"127.0.0.1:{port},127.0.0.1:{port + 1}"
    up = run("cluster", "up", "--nodes", "2", "--base-port", str(port), "--shards", "3", *where)
    assert (up.code, up.out) == (0, endpoints + "\n"), up.err
    again = run("cluster", "up", *where, "-o", "json").json
    assert (again["started"], again["endpoints"]) == ([], endpoints.split(","))
    assert len(run("topology", "-o", "json").json["shards"]) == 3  # the playground last started is the default cluster

    assert "n2 killed" in run("cluster", "kill", "n2", *where).out
    assert "n1 paused" in run("cluster", "pause", "n1", *where).out
    states = {node["name"]: node["state"] for node in run("cluster", "status", *where, "-o", "json").json["nodes"]}
    assert states == {"n1": "paused", "n2": "stopped"}
    assert run("cluster", "resume", "n1", *where).code == 0
    assert "n2 runs" in run("cluster", "start", "n2", *where).out
    status = run("cluster", "status", *where).out.splitlines()
    assert [line.split()[:4:2] for line in status[2:]] == [["n1", "running"], ["n2", "running"]]
    assert "3/3" in status[2]
    assert "0/3" in status[3]
    assert "n1 stopped in" in run("cluster", "stop", "n1", *where).out

    assert "kept in" in run("cluster", "down", *where).out
    assert (directory / "n1" / "kvnode.toml").exists()
    assert run("cluster", "down", "--purge", *where).code == 0
    assert not directory.exists()


def test_up_after_down_is_the_same_cluster(directory: Path) -> None:
    """The identity survives, and so does a caught-up node's wait; a playground used in a with statement is down afterwards."""
    with Playground.create(directory, 1, free_base_port(1), shards=2) as playground:
        identity, pid = playground.cluster_id, playground.node("n1").pid
        assert playground.wait_caught_up("n1", 5.0) < 5.0
    assert playground.node("n1").state == "stopped"
    with Playground(directory) as playground:
        assert playground.cluster_id == identity
        assert playground.node("n1").pid != pid


def test_up_that_does_not_serve_in_time_says_what_is_missing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that runs and never answers is named, and where to look."""
    monkeypatch.setattr(daemons, "DAEMON", ("/bin/sleep", "60"))
    with pytest.raises(PlaygroundError, match="n1 does not answer") as caught:
        Playground.create(directory, 1, free_base_port(1)).up(timeout_s=0.1)
    assert "log.jsonl" in caught.value.hint


def test_daemon_that_dies_at_start_shows_its_log(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 8, and the daemon's last words where one looks first."""
    monkeypatch.setattr(daemons, "DAEMON", ("/bin/sh", "-c", "echo no such setting; exit 1"))
    arguments = ("cluster", "up", "--nodes", "1", "--base-port", str(free_base_port(1)), "--dir", str(directory))
    result = run(*arguments)
    assert result.code == 8
    assert "n1" in result.err
    assert "| no such setting" in result.err
    assert json.loads(run(*arguments, "-o", "json").err)["error"]["log_tail"].splitlines()[-1] == "no such setting"


def test_commands_without_a_playground_say_how_to_start_one(run: Run, tmp_path: Path) -> None:
    """A directory without a playground is an error, never an empty success."""
    result = run("cluster", "status", "--dir", str(tmp_path))
    assert result.code == 8
    assert "kvctl cluster up" in result.err


def test_unknown_node_is_refused_with_the_names_there_are(run: Run, directory: Path) -> None:
    """A typo in a node's name shows the right ones."""
    Playground.create(directory, 2, free_base_port(2))
    result = run("cluster", "kill", "n7", "--dir", str(directory))
    assert result.code == 8
    assert "n1, n2" in result.err


def test_nodes_are_named_several_at_once(run: Run, directory: Path) -> None:
    """A wrong name among them and nothing happens; what did not run is told apart from what was ended."""
    Playground.create(directory, 3, free_base_port(3), command=["/bin/sleep", "60"])
    where = ("--dir", str(directory))
    with PlaygroundFiles(directory).changing() as record:
        for name in ("n1", "n2"):
            daemons.Daemons(PlaygroundFiles(directory)).start(record, name)
    assert run("cluster", "kill", "n1", "n9", *where).code == 8
    paused = run("cluster", "pause", "n1", "n2", "-o", "json", *where).json["nodes"]
    assert [(node["name"], node["state"]) for node in paused] == [("n1", "paused"), ("n2", "paused")]
    assert run("cluster", "resume", "n1", *where).out == "n1 goes on\n"
    assert run("cluster", "resume", "n1", *where).out == "n1 was not paused\n"
    assert run("cluster", "kill", "n1", "n3", "n1", *where).out == "n1 killed\nn3 was not running\n"
    stopped = run("cluster", "stop", "n1", "n2", *where).out.splitlines()
    assert (stopped[0], stopped[1][:13]) == ("n1 was not running", "n2 stopped in")
    assert run("cluster", "kill", "n2", "-o", "json", *where).json["state"] == "stopped"  # a single one is no list


def test_node_names_are_completed(directory: Path) -> None:
    """The shell offers the nodes that are not named yet, and nothing where there is no playground."""
    context = typer.Context(get_command(app))
    context.params = {"directory": directory, "names": ["n1"]}
    assert complete_node(context, "n") == []
    Playground.create(directory, 3, 17401)
    assert complete_node(context, "n") == ["n2", "n3"]


def test_purged_playground_is_forgotten(run: Run, directory: Path) -> None:
    """Later commands do not speak of a directory that nobody named."""
    Playground.create(directory, 1, 17401)
    remember_playground(directory)
    assert last_playground() == directory
    assert run("cluster", "down", "--purge").code == 0
    assert not (state_directory() / "last-playground.json").exists()
    result = run("cluster", "status")
    assert result.code == 8
    assert "no playground is known" in result.err
    assert str(state_directory()) not in result.err


def test_up_in_a_file_is_one_line(run: Run, tmp_path: Path) -> None:
    """No trace, whatever --dir names."""
    (tmp_path / "README").write_text("text")
    result = run("cluster", "up", "--dir", str(tmp_path / "README"))
    assert result.code == 8
    assert "is not a directory" in result.err.splitlines()[0]
    assert "Traceback" not in result.err


def test_settings_reach_the_configuration(run: Run, directory: Path) -> None:
    """--set is repeatable; a malformed one is refused before anything is written."""
    assert run("cluster", "up", "--set", "nonsense", "--dir", str(directory)).code == 2
    assert not directory.exists()
    port = str(free_base_port(1))
    more = ("--set", "log.level=debug", "--set", "election.timeout_ms_min=300", "--dir", str(directory))
    assert run("cluster", "up", "--nodes", "1", "--base-port", port, *more).code == 0
    text = (directory / "n1" / "kvnode.toml").read_text()
    assert 'level = "debug"' in text
    assert "timeout_ms_min = 300" in text
