"""What a playground writes down: its record, and the nodes' configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from kvctl.playground import Playground, PlaygroundError
from kvctl.playground_files import PlaygroundFiles, flatten, parse_setting


def test_create_writes_one_configuration_a_node(tmp_path: Path) -> None:
    """Every node knows itself, the cluster's identity, and all members."""
    settings = {"election": {"timeout_ms_min": 300}, "log.level": 'de"bug', "clock.max_clock_skew_ms": 1.5}
    playground = Playground.create(tmp_path / "pg", 3, 17401, shards=4, settings=settings, command=["x"])
    configs = [tomllib.loads(node.config_path.read_text()) for node in playground.nodes]
    assert [config["node"]["name"] for config in configs] == ["n1", "n2", "n3"]
    assert configs[1]["node"] == {
        "name": "n2",
        "listen": "127.0.0.1:17402",
        "data_dir": str(playground.directory / "n2" / "data"),
    }
    assert configs[0]["cluster"] == configs[2]["cluster"] == {
        "id": playground.cluster_id,
        "shards": 4,
        "replication_factor": 3,
        "members": {"n1": "127.0.0.1:17401", "n2": "127.0.0.1:17402", "n3": "127.0.0.1:17403"},
    }  # fmt: skip
    assert configs[0]["election"] == {"timeout_ms_min": 300}
    assert configs[0]["log"] == {"level": 'de"bug'}
    assert configs[0]["clock"] == {"max_clock_skew_ms": 1.5}
    assert playground.endpoints == list(configs[0]["cluster"]["members"].values())
    assert playground.uri == "kv://127.0.0.1:17401,127.0.0.1:17402,127.0.0.1:17403"


def test_create_with_a_transport_says_so_to_every_node_until_there_is_another(tmp_path: Path) -> None:
    """What carries gRPC is kvnode's own choice, unless the playground was told; then it is remembered, and can be changed."""
    for transport, written in ((None, None), ("kvwire", "kvwire"), (None, "kvwire"), ("grpcio", "grpcio")):
        playground = Playground.create(tmp_path / "pg", 2, 17401, transport=transport, command=["x"])
        configs = [tomllib.loads(node.config_path.read_text()) for node in playground.nodes]
        assert [config["node"].get("transport") for config in configs] == [written] * 2


def test_create_on_an_existing_directory_keeps_the_cluster(tmp_path: Path) -> None:
    """The identity is minted once; what cannot change is refused by name, settings are added."""
    first = Playground.create(tmp_path, 3, 17401, command=["x"])
    again = Playground.create(tmp_path, settings={"log.level": "debug"})
    assert again.cluster_id == first.cluster_id
    assert len(again.cluster_id) == 32
    assert tomllib.loads(again.node("n3").config_path.read_text())["log"] == {"level": "debug"}
    with pytest.raises(PlaygroundError, match="nodes 3, not 5"):
        Playground.create(tmp_path, 5)
    with pytest.raises(PlaygroundError, match="base port 17401, not 17501"):
        Playground.create(tmp_path, base_port=17501)
    with pytest.raises(PlaygroundError, match="shards 8, not 16"):
        Playground.create(tmp_path, shards=16)


def test_clusters_get_different_identities(tmp_path: Path) -> None:
    """Two playgrounds never take each other for one cluster."""
    ids = {Playground.create(tmp_path / name, 1, 17401).cluster_id for name in "ab"}
    assert len(ids) == 2


def test_create_of_a_small_cluster_lowers_the_replication_factor(tmp_path: Path) -> None:
    """One node holds one copy."""
    node = Playground.create(tmp_path, 1, 17401).node("n1")
    assert tomllib.loads(node.config_path.read_text())["cluster"]["replication_factor"] == 1


@pytest.mark.parametrize("name", ["node.name", "cluster.id", "cluster.members.n1", "cluster.shards", "election", "a.b.c"])
def test_setting_that_is_the_playgrounds_own_or_no_field_is_refused(tmp_path: Path, name: str) -> None:
    """Settings cannot contradict what the playground lays out."""
    with pytest.raises(PlaygroundError, match=f"setting {name}"):
        Playground.create(tmp_path / "pg", settings={name: 1})
    assert not (tmp_path / "pg").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("election.timeout_ms_min=500", ("election.timeout_ms_min", 500)),
        ("election.leader_lease=true", ("election.leader_lease", True)),
        ("clock.drift=0.5", ("clock.drift", 0.5)),
        ("log.level=debug", ("log.level", "debug")),
        ('log.level="info"', ("log.level", "info")),
        ("tracing.file=/a=b", ("tracing.file", "/a=b")),
        ("log.level=", ("log.level", None)),
        ('tracing.file=""', ("tracing.file", "")),
    ],
)
def test_setting_text_is_read_as_toml_or_plain_text(text: str, expected: tuple[str, object]) -> None:
    """--set takes TOML values, and strings without quotes."""
    assert parse_setting(text) == expected


@pytest.mark.parametrize("text", ["level=debug", "log.level", ".x=1", "="])
def test_setting_text_without_a_section_is_refused(text: str) -> None:
    """The error shows the form that is expected."""
    with pytest.raises(PlaygroundError, match=r"expected section\.field=value"):
        parse_setting(text)


def test_setting_is_taken_back_by_none(tmp_path: Path) -> None:
    """The record and every node's file forget it."""
    Playground.create(tmp_path, 2, 17401, settings={"log.level": "debug", "log.format": "json"}, command=["x"])
    playground = Playground.create(tmp_path, settings={"log.level": None})
    assert PlaygroundFiles(tmp_path).load().settings == {"log.format": "json"}
    assert [tomllib.loads(node.config_path.read_text())["log"] for node in playground.nodes] == [{"format": "json"}] * 2


def test_settings_that_kvnode_refuses_change_nothing(tmp_path: Path) -> None:
    """A typo is found before it is written down, where it would kill every later start."""
    with pytest.raises(PlaygroundError, match=r"log\.levl: unknown field; did you mean level\?") as caught:
        Playground.create(tmp_path / "pg", 2, 17401, settings={"log.levl": "debug"})
    assert caught.value.usage
    assert not (tmp_path / "pg").exists()
    playground = Playground.create(tmp_path / "pg", 2, 17401)
    before = {path: path.read_text() for path in (tmp_path / "pg").rglob("*") if path.is_file()}
    with pytest.raises(PlaygroundError, match=r"log\.level: .*loud"):
        Playground.create(tmp_path / "pg", settings={"log.level": "loud"})
    assert {path: path.read_text() for path in playground.directory.rglob("*") if path.is_file()} == before


def test_configuration_edited_by_hand_stays_until_the_playground_has_another(tmp_path: Path) -> None:
    """A test may change one node's file; new settings replace it, and a lost file comes back."""
    files, playground = PlaygroundFiles(tmp_path), Playground.create(tmp_path, 2, 17401, command=["x"])
    first, second = (node.config_path for node in playground.nodes)
    first.write_text("edited")
    second.unlink()
    with files.changing() as record:
        for name in record.nodes:
            files.write_config(record, name)
    assert first.read_text() == "edited"
    assert second.exists()
    Playground.create(tmp_path, settings={"log.level": "debug"})
    assert tomllib.loads(first.read_text())["log"] == {"level": "debug"}


def test_last_words_are_of_this_start_and_the_cause_comes_first(tmp_path: Path) -> None:
    """What earlier processes wrote says nothing about this one's end."""
    files, playground = PlaygroundFiles(tmp_path), Playground.create(tmp_path, 1, 17401, command=["x"])
    log = playground.node("n1").log_path
    log.write_text('{"level":"critical","event":"long ago"}\n')
    with files.changing() as record:
        record.nodes["n1"].log_offset = files.log_size_bytes("n1")
    assert files.last_words("n1") == ""
    lines = ['{"level":"info","event":"up"}', '{"level":"error","event":"e"}', '{"level":"critical","event":"why"}', "end"]
    with log.open("a") as file:
        file.write("\n".join(lines) + "\n")
    assert files.last_words("n1").splitlines() == [lines[2], lines[0], lines[1], lines[3]]
    assert files.last_words("n1", lines_max=1).splitlines() == [lines[2], "end"]


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_create_in_a_file_is_refused_by_name(tmp_path: Path, inside: str) -> None:
    """A path that is no directory is an error of one line, for create and for open."""
    (tmp_path / "notes.txt").write_text("mine")
    for make in (Playground.create, Playground):
        with pytest.raises(PlaygroundError, match=r"notes\.txt is not a directory"):
            make(tmp_path / "notes.txt" / inside)


def test_flatten_joins_nested_names() -> None:
    """Nested and flat settings mean the same."""
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e.f": 3}) == {"a.b": 1, "a.c.d": 2, "e.f": 3}


def test_open_without_a_playground_says_how_to_start_one(tmp_path: Path) -> None:
    """A wrong directory is not an empty cluster."""
    with pytest.raises(PlaygroundError, match="no playground") as caught:
        Playground(tmp_path)
    assert "kvctl cluster up" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "nodes": {}}'])
def test_open_of_a_foreign_record_is_refused(tmp_path: Path, text: str) -> None:
    """A file that we did not write is named, never overwritten."""
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(PlaygroundError, match=r"cluster\.json"):
        Playground(tmp_path)
    assert (tmp_path / "cluster.json").read_text() == text


def test_purge_removes_what_the_playground_wrote_and_nothing_else(tmp_path: Path) -> None:
    """Somebody else's file in the directory survives."""
    (tmp_path / "pg").mkdir()
    (tmp_path / "pg" / "notes.txt").write_text("mine")
    playground = Playground.create(tmp_path / "pg", 2, 17401)
    playground.down(purge=True)
    assert [path.name for path in (tmp_path / "pg").iterdir()] == ["notes.txt"]
    empty = Playground.create(tmp_path / "other", 1, 17401)
    empty.down(purge=True)
    assert not (tmp_path / "other").exists()


def test_record_survives_a_save_and_load(tmp_path: Path) -> None:
    """What is written is what is read."""
    playground = Playground.create(tmp_path, 2, 17401, settings={"log.level": "debug"}, command=["x", "{config}"])
    files = PlaygroundFiles(playground.directory)
    record = files.load()
    files.save(record)
    assert files.load() == record
