"""What the tests of kvctl share: the program, run inside the test's process, and a fake cluster for it to talk to."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kvctl.app import app
from tests.unit.kvctl.admin_cluster import AdminCluster, serving

PROGRAM = get_command(app)
"""Made once: it takes longer than most commands do."""


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """Its JSON error."""
        return json.loads(self.err)["error"]


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `kvctl` with arguments, with a home of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("KVCTL_ENDPOINTS", raising=False)

    def command(*arguments: str) -> Result:
        try:
            PROGRAM(list(arguments))
            code: object = 0
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return command


class Screen(io.TextIOWrapper):
    """A standard output that one can look at byte by byte, and that may be a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.raw_bytes = io.BytesIO()
        self.is_terminal = is_terminal
        super().__init__(self.raw_bytes, encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        """As told."""
        return self.is_terminal

    @property
    def shown(self) -> bytes:
        """What was written."""
        return self.raw_bytes.getvalue()


@pytest.fixture
def cluster(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdminCluster]:
    """A fake cluster, which KVCTL_ENDPOINTS names."""
    fake = AdminCluster()
    with serving(fake):
        monkeypatch.setenv("KVCTL_ENDPOINTS", fake.endpoints)
        yield fake
