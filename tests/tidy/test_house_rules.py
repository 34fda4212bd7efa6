"""Rules that no linter knows: who may import whom, how long a module is, what must not be left behind."""

from __future__ import annotations

import ast
import re
import tomllib

from tests.tidy.source import PRODUCT, ROOT, imports, parse, place, python_files, text_files

LINES_MAX = 450
LEFTOVER = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home|Users)/\w")
CLIENT_MAY_IMPORT = {
    "kvwire": ("kvwire", "grpc", "hpack"),
    "kvclient": ("kvclient", "kvapi", "kvwire", "grpc", "grpc_status", "google", "opentelemetry", "xxhash"),
    "kvctl": (
        "kvctl",
        "kvclient",
        "kvapi",
        "kvwire",
        "grpc",
        "grpc_health",
        "google",
        "typer",
        "click",
        "rich",
        "hdrh",
        "duckdb",
        "prometheus_client",
        "opentelemetry",
    ),
}


def test_client_packages_never_import_the_server() -> None:
    """Who installs the client gets a client: the server's code is not there."""
    found = [
        f"{place(file, node)} imports {name}"
        for file in python_files("client")
        for name, node in imports(parse(file))
        if name.split(".")[0] == "kvnode"
    ]
    assert not found, "\n".join(found)


def test_client_packages_import_only_their_dependencies() -> None:
    """What client/pyproject.toml does not name is not there for those who install it."""
    import sys

    found = []
    for package, allowed in CLIENT_MAY_IMPORT.items():
        for file in python_files(f"client/{package}"):
            for name, node in imports(parse(file)):
                top = name.split(".")[0]
                relative = isinstance(node, ast.ImportFrom) and node.level > 0
                if not relative and top not in allowed and top not in sys.stdlib_module_names:
                    found.append(f"{place(file, node)} imports {name}")
    assert not found, "\n".join(found)


def test_kvwire_imports_nothing_of_the_store() -> None:
    """gRPC on asyncio knows no keys, no values and no nodes: it can be taken out, tested and replaced by itself."""
    found = [
        f"{place(file, node)} imports {name}"
        for file in python_files("client/kvwire")
        for name, node in imports(parse(file))
        if name.split(".")[0].startswith("kv") and name.split(".")[0] != "kvwire"
    ]
    assert not found, "\n".join(found)


def test_modules_are_short_enough_to_read_at_once() -> None:
    """A module that outgrows this holds two ideas."""
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in python_files(*PRODUCT, "tools")}
    found = [f"{place(file, 1)} has {lines} lines" for file, lines in lengths.items() if lines > LINES_MAX]
    assert not found, "\n".join(found)


def test_modules_say_what_they_own() -> None:
    """Every module begins with a docstring."""
    found = [place(file, 1) for file in python_files(*PRODUCT, "tools", "tests") if not ast.get_docstring(parse(file))]
    found = [where for where in found if (ROOT / where.partition(":")[0]).stat().st_size]
    assert not found, "\n".join(found)


def test_tests_say_what_they_show() -> None:
    """Every test has a docstring, and a name of subject, situation and outcome."""
    found = []
    for file in python_files("tests"):
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                if not ast.get_docstring(node):
                    found.append(f"{place(file, node)} {node.name} has no docstring")
                if node.name.count("_") < 3:
                    found.append(f"{place(file, node)} {node.name} does not say subject, situation and outcome")
    assert not found, "\n".join(found)


def test_files_hold_no_leftovers_and_no_machine_paths() -> None:
    """Nothing waits to be done in a comment, and nothing works on one machine only."""
    found = []
    for file in text_files():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for pattern in (LEFTOVER, MACHINE_PATH):
                if match := pattern.search(line):
                    found.append(f"{place(file, number)} {match[0]}")
    assert not found, "\n".join(found)


def test_versions_of_both_packages_agree() -> None:
    """Server and client are released together, and the server asks for a client of its own series."""
    from kvnode import __version__

    client = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]["version"]
    assert client == __version__


def test_makefile_help_lists_every_target() -> None:
    """Each target has its one comment."""
    makefile = (ROOT / "Makefile").read_text()
    declared = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert declared is not None
    documented = re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE)
    assert sorted(documented) == sorted(declared[1].split())
