"""Command lines that cannot be understood: one form of error, in words for people and as JSON."""

from __future__ import annotations

import json

import pytest

from kvctl.usage_errors import wants_json
from tests.unit.kvctl.conftest import Run


def test_choice_that_is_mistyped_names_the_nearest(run: Run) -> None:
    """The parser's own words do not show."""
    result = run("get", "k", "-c", "eventuall")
    assert result.code == 2
    assert "'eventuall' is not one of 'strong', 'eventual'" in result.err
    assert "did you mean eventual?" in result.err
    assert "Value error" not in result.err
    assert "get --help" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "k", "--foo", "-o", "json"),
        ("-o", "json", "nonsense"),
        ("range", "--limit", "abc", "--output=json"),
        ("put", "k", "-ojson"),
        ("cluster", "kill", "-o", "json"),
        ("-o", "json"),
    ],
)
def test_usage_error_is_json_where_json_is_asked_for(run: Run, arguments: tuple[str, ...]) -> None:
    """Programs parse one form of error, whoever found it."""
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    error = json.loads(result.err)["error"]
    assert (error["reason"], error["exit_code"]) == ("USAGE", 2)
    assert error["message"]


def test_no_arguments_show_the_help(run: Run) -> None:
    """For people, and with the exit code of a usage error."""
    for arguments in ((), ("cluster",)):
        result = run(*arguments)
        assert result.code == 2
        assert "Usage:" in result.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], False), (["-o", "json"], True), (["-o", "json", "-o", "table"], False), (["put", "--", "-o", "json"], False)],
)
def test_wants_json_follows_the_last_output_option(arguments: list[str], expected: bool) -> None:
    """Behind a double dash an option is an argument."""
    assert wants_json(arguments) is expected
