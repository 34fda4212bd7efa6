"""Settings that are valid and rarely meant."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kvnode.config_layers import ConfigError
from kvnode.doctor.finding import Level
from kvnode.doctor.settings import check_invalid, check_readable, check_settings, is_loopback, is_open
from tests.unit.doctor.subjects import MEMBERS, make_config, make_subject

LOCAL = {f"cluster__members.{name}": f"127.0.0.1:740{name[1]}" for name in MEMBERS}


def test_settings_as_they_should_be_are_summed_up_and_nothing_else() -> None:
    """No warning for a cluster of three with the defaults."""
    (finding,) = check_settings(make_config(), "n1.toml")
    assert finding == ("configuration", Level.OK, "n1.toml: node n1 of cluster orders, 3 members, 8 shards", "")


@pytest.mark.parametrize(
    ("settings", "level", "words"),
    [
        ({"cluster__replication_factor": "2"}, Level.WARNING, "is 2: it survives no more failures than 1 does"),
        ({"cluster__replication_factor": "1"}, Level.WARNING, "each shard is on one node"),
        ({"cluster__shards": "5"}, Level.WARNING, "cluster.shards is 5 for 3 nodes"),
        ({"node__listen": "127.0.0.1:7401", "node__advertise": MEMBERS["n1"]}, Level.PROBLEM, "n2, n3 cannot reach"),
        ({"node__listen": "[::1]:7401", "node__advertise": MEMBERS["n1"]}, Level.PROBLEM, "n2, n3 cannot reach"),
        (
            {"node__advertise": "localhost:7401", "cluster__members.n1": "localhost:7401"},
            Level.PROBLEM,
            "which means another host on n2, n3",
        ),
        ({"cluster__members.n3": "127.0.0.1:7403"}, Level.WARNING, "n3 on this host's loopback, and this node at 10.0.0.1"),
        ({"node__listen": "0.0.0.0:7401", "node__advertise": MEMBERS["n1"]}, Level.WARNING, "may read and write everything"),
        ({"node__listen": "[::]:7401", "node__advertise": MEMBERS["n1"]}, Level.WARNING, "may read and write everything"),
        ({"metrics__listen": "0.0.0.0:9100"}, Level.WARNING, "may read the metrics"),
        ({"metrics__listen": "8.8.8.8:9100"}, Level.WARNING, "may read the metrics"),
        ({"faults__enabled": "true"}, Level.WARNING, "faults.enabled is true"),
        ({"log__level": "debug"}, Level.WARNING, "log.level is debug"),
        ({"storage__ballast_size_bytes": "0"}, Level.WARNING, "storage.ballast_size_bytes is 0"),
    ],
)
def test_setting_that_is_rarely_meant_is_pointed_out(settings: dict[str, str], level: Level, words: str) -> None:
    """One finding beside the summary, with the setting's path and advice."""
    _, *found = check_settings(make_config(**settings), "")
    assert [finding.level for finding in found] == [level]
    assert words in found[0].found
    assert found[0].advice


def test_cluster_of_two_is_warned_about_once() -> None:
    """Neither of the two may fail; that its replication factor is even is the same thing."""
    config = make_config()
    two = config.cluster.model_copy(update={"members": dict(list(MEMBERS.items())[:2]), "replication_factor": 2})
    _, *found = check_settings(config.model_copy(update={"cluster": two}), "")
    assert [finding.found[:29] for finding in found] == ["cluster.members has two: with"]


@pytest.mark.parametrize("settings", [{"metrics__listen": "127.0.0.1:9100"}, {"node__listen": MEMBERS["n1"]}, LOCAL])
def test_settings_of_a_private_network_or_of_one_host_are_fine(settings: dict[str, str]) -> None:
    """Nothing to say about a playground, or about metrics for the host itself."""
    if settings is LOCAL:
        settings = {**settings, "node__listen": "127.0.0.1:7401"}
    assert len(check_settings(make_config(**settings), "")) == 1


def test_configuration_with_mistakes_is_a_problem_for_each() -> None:
    """All of them are told at once, in the configuration's own words."""
    with pytest.raises(ConfigError) as refused:
        make_config(cluster__replication_factor="0", log__levle="info")
    found = check_invalid(refused.value)
    assert [finding.level for finding in found] == [Level.PROBLEM, Level.PROBLEM]
    assert "did you mean level?" in "".join(finding.found for finding in found)


@pytest.mark.parametrize(
    ("address", "loopback", "open_to_all"),
    [
        ("127.0.0.1:1", True, False),
        ("127.8.0.1:1", True, False),
        ("localhost:1", True, False),
        ("[::1]:1", True, False),
        ("10.1.2.3:1", False, False),
        ("[fd00::1]:1", False, False),
        ("192.168.0.1:1", False, False),
        ("db1.example:1", False, False),
        ("0.0.0.0:1", False, True),
        ("[::]:1", False, True),
        ("1.1.1.1:1", False, True),
        ("[2606:4700::1]:1", False, True),
    ],
)
def test_address_of_each_kind_is_told_apart(address: str, loopback: bool, open_to_all: bool) -> None:
    """Loopback, private, public, all."""
    assert (is_loopback(address), is_open(address)) == (loopback, open_to_all)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="kvnode-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")
def test_configuration_that_the_service_cannot_read_is_a_problem(open_path: Path) -> None:
    """Root can read it; the user who will run the node cannot."""
    path = open_path / "n1.toml"
    path.write_text("")
    path.chmod(0o600)
    subject = replace(make_subject(open_path), config_path=str(path), uid=65534)
    (found,) = check_readable(subject)
    assert found.level == Level.PROBLEM
    assert f"{path} cannot be read by nobody" in found.found
    path.chmod(0o644)
    assert check_readable(subject) == []
    assert check_readable(make_subject(open_path)) == []
