"""Settings: layers, what is refused and in which words, and what is derived."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import random
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from kvclient.transport import TRANSPORTS
from kvnode.__main__ import main, split_settings
from kvnode.config import Cluster, Config, ConfigError, Node

MEMBERS = {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7402", "n3": "127.0.0.1:7403"}
TOML = """
[node]
name = "n2"
listen = "127.0.0.1:7402"
data_dir = "data/n2"
[cluster]
id = "example"
[cluster.members]
n1 = "127.0.0.1:7401"
n2 = "127.0.0.1:7402"
n3 = "127.0.0.1:7403"
[election]
timeout_ms_min = 900
[storage]
segment_size_bytes = "1MiB"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kvnode.toml"
    path.write_text(TOML)
    return path


def problems(file: Path, flags: dict[str, str] | None = None, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        Config.load(file, flags or {}, environ or {})
    return caught.value.problems


def extended(file: Path, more: str) -> Path:
    file.write_text(TOML + more)
    return file


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_config_of_the_transport_takes_what_clients_take(file: Path, transport: str) -> None:
    """Nodes and the SDK have the same names for what carries gRPC."""
    assert Config.load(file, {"node.transport": transport}, {}).node.transport == transport


def test_config_from_a_file_alone_fills_in_defaults(file: Path) -> None:
    """What the file does not say has its default; sizes may be text."""
    config = Config.load(file, {}, {})
    assert (config.node.name, config.node.advertise, config.node.data_dir) == ("n2", "127.0.0.1:7402", Path("data/n2"))
    assert config.cluster.members == MEMBERS
    assert (config.election.timeout_ms_min, config.election.timeout_ms_max) == (900, 1600)
    assert config.storage.segment_size_bytes == 1024 * 1024
    assert config.failure_detection.heartbeat_interval_ms == 200


def test_config_set_in_every_layer_takes_the_flag(file: Path) -> None:
    """Default < file < environment < flag, each field by itself."""
    environ = {"KVNODE_ELECTION__TIMEOUT_MS_MIN": "1000", "KVNODE_ELECTION__TIMEOUT_MS_MAX": "2000"}
    config, origins = Config.load_with_origins(file, {"election.timeout_ms_min": "1100"}, environ)
    assert (config.election.timeout_ms_min, config.election.timeout_ms_max) == (1100, 2000)
    assert origins.origin("election.timeout_ms_min") == "flag --election.timeout_ms_min"
    assert origins.origin("election.timeout_ms_max") == "environment KVNODE_ELECTION__TIMEOUT_MS_MAX"
    assert origins.origin("storage.segment_size_bytes") == str(file)
    assert origins.origin("gossip.fanout") == "default"


def test_config_of_fault_injection_is_off_unless_it_is_told(file: Path) -> None:
    """A server that can be broken by a call must have been asked for it."""
    assert Config.load(file, {}, {}).faults.enabled is False
    assert Config.load(file, {"faults.enabled": "true"}, {}).faults.enabled is True
    assert problems(file, {"faults.enabled": "perhaps"})[0].startswith("faults.enabled")


def test_config_of_transactions_has_a_default_and_takes_every_layer(file: Path) -> None:
    """One second until the decision is asked for, unless a file, the environment or a flag says otherwise."""
    assert Config.load(file, {}, {}).transactions.push_after_ms == 1000
    extended(file, "[transactions]\npush_after_ms = 300\n")
    assert Config.load(file, {}, {}).transactions.push_after_ms == 300
    environ = {"KVNODE_TRANSACTIONS__PUSH_AFTER_MS": "400"}
    assert Config.load(file, {}, environ).transactions.push_after_ms == 400
    assert Config.load(file, {"transactions.push_after_ms": "500"}, environ).transactions.push_after_ms == 500


def test_config_of_transactions_with_a_typo_names_what_was_meant(file: Path) -> None:
    """As for every section."""
    (problem,) = problems(extended(file, "[transactions]\npush_after = 300\n"))
    assert problem.startswith("transactions.push_after: unknown field")
    assert problem.endswith("did you mean push_after_ms?")


def test_config_members_from_environment_and_flags_join_the_table(file: Path) -> None:
    """A table is merged entry by entry."""
    environ = {"KVNODE_CLUSTER__MEMBERS__N4": "127.0.0.1:7404"}
    config = Config.load(file, {"cluster.members.n5": "127.0.0.1:7405"}, environ)
    assert list(config.cluster.members) == ["n1", "n2", "n3", "n4", "n5"]


def test_config_with_a_misspelt_nested_field_names_its_path(file: Path) -> None:
    """A typo is an error with the path, the place, and the name that was probably meant."""
    (problem,) = problems(extended(file, "[failure_detection]\nheartbeat_intervall_ms = 5\n"))
    assert problem.startswith("failure_detection.heartbeat_intervall_ms: unknown field")
    assert str(file) in problem
    assert problem.endswith("did you mean heartbeat_interval_ms?")


def test_config_with_a_field_in_the_wrong_section_says_where_it_belongs(file: Path) -> None:
    """A field of another section is pointed to its home."""
    (problem,) = problems(extended(file, "[gossip]\nheartbeat_interval_ms = 5\n"))
    assert problem.endswith("heartbeat_interval_ms belongs to [failure_detection]")


def test_config_with_a_misspelt_section_names_it(file: Path) -> None:
    """A whole table that nobody reads is an error, too."""
    (problem,) = problems(extended(file, "[gosip]\nfanout = 2\n"))
    assert problem == f"gosip: unknown section (from {file}); did you mean gossip?"


def test_config_with_a_misspelt_variable_names_it(file: Path) -> None:
    """The environment is checked as strictly as the file; other programs' variables are none of ours."""
    assert problems(file, environ={"KVNODE_GOSIP__FANOUT": "2"})[0].startswith("gosip: unknown section")
    assert problems(file, environ={"KVNODE_GOSSIP__FANUOT": "2"})[0].endswith("did you mean fanout?")
    Config.load(file, {}, {"GOSIP__FANOUT": "2", "KVNODE_SOMETHING": "else"})


def test_config_with_a_misspelt_flag_names_it(file: Path) -> None:
    """Flags are checked as strictly as the file."""
    (problem,) = problems(file, {"storage.quota_byte": "1"})
    assert problem == "storage.quota_byte: unknown field (from flag --storage.quota_byte); did you mean quota_bytes?"


def test_config_with_several_mistakes_lists_them_all(file: Path) -> None:
    """One run shows all mistakes."""
    found = problems(file, {"cluster.shards": "many", "log.level": "loud", "tracing.sample_ratio": "2"})
    assert [problem.partition(":")[0] for problem in found] == ["cluster.shards", "log.level", "tracing.sample_ratio"]


def test_config_without_required_fields_says_how_to_set_them() -> None:
    """Nothing given: every required field is named, with all ways to set it."""
    with pytest.raises(ConfigError) as caught:
        Config.load(None, {}, {})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["node.name", "node.data_dir", "cluster.id"]
    assert "KVNODE_NODE__DATA_DIR, or as --node.data_dir" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ({"election.timeout_ms_min": "1600"}, "election.timeout_ms_min"),
        ({"election.timeout_ms_min": "200"}, "election.timeout_ms_min"),
        ({"failure_detection.heartbeat_interval_ms": "250"}, "failure_detection.silence_ms_min"),
        ({"failure_detection.silence_ms_max": "400"}, "failure_detection.silence_ms_min"),
        ({"failure_detection.phi_failed": "4"}, "failure_detection.phi_suspected"),
        ({"node.name": "n9"}, "cluster.members"),
        ({"node.advertise": "10.0.0.1:7402"}, "node.advertise"),
        ({"node.listen": "0.0.0.0:7402"}, "node.advertise"),
        ({"cluster.replication_factor": "4"}, "cluster.replication_factor"),
        ({"cluster.members.n3": "127.0.0.1:7401"}, "cluster.members.n3"),
        ({"storage.quota_bytes": "1MiB"}, "storage.quota_bytes"),
        ({"storage.store_size_bytes_max": "1MiB"}, "storage.store_size_bytes_max"),
    ],
)
def test_config_with_contradictions_names_the_field(file: Path, flags: dict[str, str], path: str) -> None:
    """Settings that are fine alone and wrong together are refused, by the field to change."""
    assert problems(file, flags)[0].startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("node.listen", "7402"),
        ("node.listen", "127.0.0.1:70000"),
        ("node.listen", "127.0.0.1:0"),
        ("node.listen", "http://127.0.0.1:7402"),
        ("node.name", "n 2"),
        ("node.name", ""),
        ("node.data_dir", ""),
        ("node.transport", "pigeon"),
        ("cluster.members.n1", "somewhere"),
        ("cluster.shards", "0"),
        ("cluster.replication_factor", "8"),
        ("transactions.push_after_ms", "0"),
        ("transactions.push_after_ms", "3600001"),
        ("transactions.push_after_ms", "1.5"),
        ("storage.segment_size_bytes", "64MB"),
        ("storage.flush_interval_s", "nan"),
        ("storage.flush_interval_s", "0"),
        ("election.clock_drift_max", "0.5"),
        ("tracing.otlp_endpoint", "localhost:4317"),
        ("election.timeout_ms_min.x", "5"),
    ],
)
def test_config_with_a_bad_value_names_its_path(file: Path, setting: str, value: str) -> None:
    """Each field refuses what it cannot mean."""
    assert problems(file, {setting: value})[0].partition(":")[0] in (setting, setting.rpartition(".")[0])


def test_config_with_a_truth_for_a_number_is_refused(file: Path) -> None:
    """`shards = true` is a mistake, though Python would take it for 1."""
    (problem,) = problems(extended(file, "[replication]\nentries_retained = true\n"))
    assert problem.startswith("replication.entries_retained: must be a number or text, not True")


@pytest.mark.parametrize("text", ["[node", "name = 1", "\xff"])
def test_config_from_an_unreadable_file_says_which(tmp_path: Path, text: str) -> None:
    """Broken TOML, settings outside of sections and other encodings are errors of the file."""
    path = tmp_path / "broken.toml"
    path.write_bytes(text.encode("latin-1"))
    assert str(path) in problems(path)[0]
    assert "cannot be read" in problems(tmp_path / "absent.toml")[0]


def test_config_dumped_as_toml_loads_as_the_same() -> None:
    """A dump is a complete configuration file, whatever characters its texts hold."""
    config = Config.load(None, {"tracing.file": 'a "b"\\c\n', "cluster.members.n1": "127.0.0.1:7401"}, {}, "local")
    again = Config.model_validate(tomllib.loads(config.to_toml()))
    assert again == config


def test_config_of_a_node_alone_lists_itself() -> None:
    """Without members a node is a cluster of its own, if it says that it replicates nothing."""
    config = Config.load(None, {}, {}, "local")
    assert config.cluster.members == {"n1": "127.0.0.1:7401"}
    with pytest.raises(ConfigError, match=r"cluster\.replication_factor"):
        Config.load(None, {"cluster.replication_factor": "3"}, {}, "local")


def test_config_once_made_cannot_be_changed() -> None:
    """A configuration may be shared between threads."""
    config = Config.load(None, {}, {}, "local")
    with pytest.raises(ValidationError):
        config.election.timeout_ms_min = 1  # type: ignore[misc]


def test_config_randomized_over_many_seeds_is_always_valid() -> None:
    """Every draw satisfies every rule, the same seed draws the same, and draws differ."""
    node = Node(name="n1", data_dir=Path("d"))
    cluster = Cluster(id="c", members=MEMBERS)
    drawn = [Config.randomized(random.Random(seed), node=node, cluster=cluster) for seed in range(200)]
    assert drawn[7] == Config.randomized(random.Random(7), node=node, cluster=cluster)
    assert len({config.election.timeout_ms_min for config in drawn}) > 10


def test_every_setting_says_what_it_means() -> None:
    """The trade-off stands beside each field."""
    undocumented = []
    for section, field in Config.model_fields.items():
        assert field.annotation is not None
        (definition,) = ast.parse(inspect.getsource(field.annotation)).body
        assert isinstance(definition, ast.ClassDef)
        for setting, text in itertools.pairwise([*definition.body, ast.Pass()]):
            if isinstance(setting, ast.AnnAssign):
                said = text.value if isinstance(text, ast.Expr) else None
                if not (isinstance(said, ast.Constant) and isinstance(said.value, str)):
                    undocumented.append(f"{section}.{ast.unparse(setting.target)}")
    assert undocumented == []


def test_split_settings_among_other_arguments_takes_only_settings() -> None:
    """Both spellings of a flag are taken, dashes too; values may begin with a dash; the rest is left alone."""
    arguments = ["run", "--config", "a.toml", "--log.level", "debug", "--storage.quota-bytes=5", "--node.name", "-x"]
    assert split_settings(arguments) == (
        ["run", "--config", "a.toml"],
        {"log.level": "debug", "storage.quota_bytes": "5", "node.name": "-x"},
    )
    with pytest.raises(ConfigError, match=r"log\.level: a value is missing"):
        split_settings(["run", "--log.level"])


def test_config_check_command_says_ok_or_why_not(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 and a line, or 1 and every problem on standard error."""
    assert main(["config", "check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "ok: node n2 of cluster example, 3 members, 8 shards\n"
    assert main(["config", "check", "--config", str(file), "--log.level", "loud"]) == 1
    assert capsys.readouterr().err.startswith("kvnode: log.level: input should be 'debug'")


def test_config_dump_command_says_where_each_value_came_from(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dump is TOML with origins as comments, or JSON with origins beside."""
    assert main(["config", "dump", "--config", str(file), "--log.level=debug"]) == 0
    text = capsys.readouterr().out
    assert 'level = "debug"  # flag --log.level\n' in text
    assert f"timeout_ms_min = 900  # {file}\n" in text
    assert tomllib.loads(text)["cluster"]["members"] == MEMBERS
    assert main(["config", "dump", "--config", str(file), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["config"]["election"]["timeout_ms_min"] == 900
    assert document["origins"]["election.timeout_ms_min"] == str(file)


def credentials(directory: Path, **texts: str) -> dict[str, str]:
    """An environment in which systemd has put credentials; "__" stands for the name's dot."""
    directory.mkdir(exist_ok=True)
    for name, text in texts.items():
        (directory / name.replace("__", ".")).write_text(text)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_credential_named_as_a_setting_sets_it_between_file_and_environment(file: Path, tmp_path: Path) -> None:
    """A secret need not stand in the file; what is said for one start still wins."""
    environ = credentials(tmp_path / "c", tracing__otlp_headers="authorization=Bearer 1\n", election__timeout_ms_min="950")
    config, origins = Config.load_with_origins(file, {}, environ)
    assert config.tracing.otlp_headers.get_secret_value() == "authorization=Bearer 1"
    assert config.election.timeout_ms_min == 950
    assert origins.origin("tracing.otlp_headers") == "credential tracing.otlp_headers"
    assert Config.load(file, {}, {**environ, "KVNODE_ELECTION__TIMEOUT_MS_MIN": "970"}).election.timeout_ms_min == 970


def test_credential_of_somebody_else_is_none_of_ours(file: Path, tmp_path: Path) -> None:
    """Names without a dot: keys for other programs of the unit. One with a dot that is no setting is a mistake, and said."""
    environ = credentials(tmp_path / "c", tlskey="\0\1")
    assert Config.load(file, {}, environ).node.name == "n2"
    found = problems(file, environ=credentials(tmp_path / "c", tracing__otlp_header="x"))
    assert len(found) == 1
    assert found[0].startswith(
        "tracing.otlp_header: unknown field (from credential tracing.otlp_header); did you mean otlp_headers"
    )


def test_check_without_credentials_does_not_look_at_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What systemd runs beside a node, as for a reload, may know where they are and not read them."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "not to be read"))
    assert main(["config", "check", "--config", str(file)]) == 1
    assert "the credential cannot be read" in capsys.readouterr().err
    assert main(["config", "check", "--without-credentials", "--config", str(file)]) == 0


def test_secret_is_never_shown(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by a dump in either format, not in a mistake's message, not in a model's text."""
    extended(file, '[tracing]\notlp_headers = "authorization=Bearer hunter2"\n')
    for output in ("toml", "json"):
        assert main(["config", "dump", "--config", str(file), "-o", output]) == 0
    shown = capsys.readouterr().out
    assert "otlp_headers" in shown
    assert "hunter2" not in shown + repr(Config.load(file, {}, {}))
    found = problems(file, {"tracing.otlp_headers": "Bearer hunter2"})
    assert found == (
        'tracing.otlp_headers: must be empty, or pairs as "name=value,name=value", names in lower case '
        "(from flag --tracing.otlp_headers)",
    )


def test_dump_with_a_secret_can_be_loaded_again(file: Path, tmp_path: Path) -> None:
    """The secret is left out of it, as a comment; all else comes back."""
    extended(file, '[tracing]\notlp_headers = "authorization=Bearer hunter2"\nslow_ms = 5\n')
    dumped = tmp_path / "dumped.toml"
    dumped.write_text(Config.load(file, {}, {}).to_toml())
    again = Config.load(dumped, {}, {})
    assert again.tracing.slow_ms == 5
    assert not again.tracing.otlp_headers.get_secret_value()
