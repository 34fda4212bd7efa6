"""What the doctor says, to people and to programs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from kvnode.__main__ import main
from kvnode.doctor.finding import Finding, Level, attempt, ok, problem, size_text, skipped, warning
from kvnode.doctor.report import as_json, lines, show
from kvnode.doctor.software import check_software, slow_libraries

FINDINGS = [
    ok("configuration", "fine"),
    warning("clock", "nobody keeps it", "Start a time service"),
    problem("peer n2", "10.0.0.2:7401: no connection within 2 s", "See to the network"),
    skipped("log", "the node runs"),
]


def test_report_for_people_has_advice_below_and_a_summary_last() -> None:
    """Plain columns, for grep."""
    assert list(lines(FINDINGS, "n1")) == [
        "ok       configuration  fine",
        "warning  clock          nobody keeps it",
        "                        → Start a time service",
        "problem  peer n2        10.0.0.2:7401: no connection within 2 s",
        "                        → See to the network",
        "skipped  log            the node runs",
        "",
        "n1: 1 problem, 1 warning, 1 ok, 1 skipped",
    ]
    assert list(lines(FINDINGS[:1] * 2, "n1"))[-1] == "n1: 0 problems, 0 warnings, 2 ok"


def test_report_on_a_narrow_terminal_is_wrapped_below_its_column() -> None:
    """No line is wider, and what is wrapped stays in its column."""
    shown = list(lines([ok("a", "word " * 40)], "n1", width=60))
    assert all(len(line) <= 60 for line in shown)
    assert all(line.startswith(" " * 12 + "word") for line in shown[1:-2])


def test_report_escapes_what_strangers_say_of_themselves() -> None:
    """A peer's name cannot command a terminal."""
    text = "\n".join(lines([ok("peer n2", "node \x1b[31mred\n\u202e of")], "n1"))
    assert "\x1b" not in text
    assert "node \\x1b[31mred\\n\\u202e of" in text


def test_report_in_a_pipe_has_no_colours_and_no_wrapping() -> None:
    """What a program reads line by line stays so."""
    output = io.StringIO()
    show([ok("a", "word " * 80)], "n1", output)
    assert "\x1b" not in output.getvalue()
    assert len(output.getvalue().splitlines()) == 3


def test_report_for_programs_is_one_object() -> None:
    """With the counts, and every finding in order."""
    told = json.loads(as_json(FINDINGS, node="n1"))
    assert (told["node"], told["problems"], told["warnings"]) == ("n1", 1, 1)
    assert told["findings"][1] == {
        "name": "clock",
        "level": "warning",
        "found": "nobody keeps it",
        "advice": "Start a time service",
    }


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB"), (200.5 * 1024, "200 KiB"), (2**50, "1024 TiB")],
)
def test_size_of_each_magnitude_is_readable(size: float, text: str) -> None:
    """As people write them."""
    assert size_text(size) == text


def test_doctor_of_a_configuration_that_cannot_be_used_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All mistakes are told, nothing else can be looked at, and the exit code is 1."""
    path = tmp_path / "n1.toml"
    path.write_text("[node]\nname = 'n1'\n[cluster]\nsards = 8\n")
    assert main(["doctor", "--config", str(path)]) == 1
    said = capsys.readouterr().out
    assert "problem  configuration  cluster.sards: unknown field" in said
    assert "problem  configuration  node.data_dir: required" in said
    assert said.splitlines()[-1].endswith(": 3 problems, 0 warnings, 0 ok, 1 skipped")
    assert main(["doctor", "--config", str(path), "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == 3


@pytest.mark.parametrize("arguments", [["--user", "no-such-user"], ["-o", "yaml"], ["--what"]])
def test_doctor_with_a_wrong_command_line_ends_with_two(arguments: list[str]) -> None:
    """As every command."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    assert ended.value.code == 2


def test_check_that_fails_unexpectedly_is_skipped_and_named() -> None:
    """A host broken in a new way: the other checks still run."""

    def fail(_: object) -> list[Finding]:
        raise OSError(5, "Input/output error")

    (found,) = attempt("disk space", fail, None)
    assert (found.name, found.level) == ("disk space", Level.SKIPPED)
    assert "Input/output error" in found.found


def test_software_without_compiled_code_is_named() -> None:
    """What fell back to Python is slow; what is installed here is not."""
    assert slow_libraries("python", "python") == ["google-crc32c", "protobuf"]
    assert slow_libraries("c", "upb") == []
    (found,) = check_software("kvwire")
    assert found.level in (Level.OK, Level.WARNING)
    assert "transport kvwire" in found.found


def test_finding_of_each_level_has_its_name() -> None:
    """The words that programs read."""
    assert [finding.level.value for finding in FINDINGS] == ["ok", "warning", "problem", "skipped"]
    assert Finding("a", Level.OK, "b").advice == ""
