"""An installation, a node that runs from it, and room beside it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvctl.playground import Playground, free_base_port
from tests.packaging.stage import BUILD, python_of, staged, why_not


@pytest.fixture(scope="session")
def stage() -> Path:
    """What `make install` left below DESTDIR. Not to be changed."""
    if reason := why_not():
        pytest.skip(f"kvnode cannot be installed here: {reason}")
    return staged()


@pytest.fixture(scope="session")
def node(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A cluster of one node, which knows nothing but the installation."""
    command = [str(python_of(stage)), "-I", "-m", "kvnode", "run", "--config", "{config}"]
    directory = tmp_path_factory.mktemp("node") / "cluster"
    with Playground.create(directory, nodes=1, base_port=free_base_port(1), shards=2, command=command) as running:
        yield running


@pytest.fixture
def room() -> Iterator[Path]:
    """A directory on the same file system as the installation, so that copies of it are hard links."""
    directory = Path(tempfile.mkdtemp(prefix="packaging-", dir=BUILD))
    yield directory
    shutil.rmtree(directory)
