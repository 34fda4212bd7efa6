"""What `kvnode run` ends with, and what the unit file makes of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kvnode import exit_codes
from kvnode.__main__ import main
from kvnode.errors import Corrupt, NoLeader, WrongCluster
from kvnode.storage.disk import DiskFailed, OutOfSpace


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Corrupt("a bad record"), 65),
        (WrongCluster("another cluster's"), 65),
        (DiskFailed("cannot sync"), 74),
        (OutOfSpace("full"), 1),
        (OSError("address in use"), 1),
        (NoLeader("a bug"), 1),
        (AssertionError("a bug"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_code_tells_what_a_restart_can_cure(error: BaseException, code: int) -> None:
    """1 where starting again may help; others where a person has to look first."""
    assert exit_codes.exit_code(error) == code


def test_run_with_an_unusable_configuration_ends_with_ex_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No restart cures a file; `config check` of the same file keeps its 1."""
    file = tmp_path / "n1.toml"
    file.write_text("[node]\nname = 'n1'\n")
    assert main(["run", "--config", str(file)]) == exit_codes.UNUSABLE_CONFIG == 78
    assert main(["config", "check", "--config", str(file)]) == 1
    assert "cluster.id: required" in capsys.readouterr().err


def test_mistake_in_the_configuration_is_an_error_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`journalctl -p err` shows why the node did not start, and not only that it did not."""
    file = tmp_path / "n1.toml"
    file.write_text("[node]\nname = 'n1'\n")
    status = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    main(["run", "--config", str(file)])
    lines = capfd.readouterr().err.splitlines()
    assert lines
    assert all(line.startswith("<3>kvnode: ") for line in lines)
