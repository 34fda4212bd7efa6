"""Finds and parses the project's own files, for the house rules."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("kvnode", "client/kvclient", "client/kvctl", "client/kvwire")
_FOREIGN = ("build", "dist", "node_modules", "kvapi", "__pycache__")
"""Directories that hold what tools made."""


def python_files(*below: str) -> list[Path]:
    """Hand-written Python files below the given directories, sorted."""
    return [file for directory in below for file in _files(ROOT / directory) if file.suffix == ".py"]


def text_files() -> list[Path]:
    """All hand-written files, configuration and documents too."""
    return list(_files(ROOT))


def _files(below: Path) -> Iterator[Path]:
    for directory, subdirectories, names in os.walk(below):
        subdirectories[:] = sorted(
            name
            for name in subdirectories
            if name not in _FOREIGN and not name.endswith(".egg-info") and (not name.startswith(".") or name == ".ci")
        )
        for name in sorted(names):
            if name != ".git":  # (In a worktree it is a file.)
                yield Path(directory) / name


@functools.cache
def parse(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def place(file: Path, node: ast.AST | int) -> str:
    """ "kvnode/config.py:12", for messages."""
    line = node if isinstance(node, int) else getattr(node, "lineno", 1)
    return f"{file.relative_to(ROOT)}:{line}"


def imports(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every imported module, with "a.b" for both `import a.b` and `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node
