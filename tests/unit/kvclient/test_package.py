"""What the package promises as a whole."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import kvclient

PACKAGE = Path(kvclient.__file__).parent
ALLOWED = {"kvclient", "kvapi", "kvwire", "grpc", "google", "opentelemetry", "xxhash"}


def test_sync_twin_is_what_the_generator_makes() -> None:
    """The two clients cannot drift apart."""
    done = subprocess.run(
        [sys.executable, str(PACKAGE.parent.parent / "tools" / "unasync.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_imports_only_what_the_thin_wheel_depends_on() -> None:
    """Never the server, nor anything else that is not declared; `hashing` imports nothing but the hash, save for types."""
    for path in sorted(PACKAGE.rglob("*.py")):
        roots = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                roots.add((node.module or "").partition(".")[0])
        assert roots - set(sys.stdlib_module_names) <= ALLOWED, path
        if path.name == "hashing.py":
            assert roots == {"__future__", "typing", "collections", "kvapi", "xxhash"}
            assert not {"collections", "kvapi"} & _imported_at_run_time(path)


def _imported_at_run_time(path: Path) -> set[str]:
    """What a module imports outside of `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {(node.module or "").partition(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}


def test_package_is_typed() -> None:
    """Type checkers look inside."""
    assert (PACKAGE / "py.typed").exists()
