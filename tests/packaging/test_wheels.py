"""What is in the two wheels, and what they say about themselves."""

from __future__ import annotations

import importlib.metadata
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.packaging.stage import ROOT, built
from tests.tidy.source import imports, parse, python_files
from tools import wheels

PACKAGES = {"kvnode": ("kvnode",), "kvnode_client": ("client/kvapi", "client/kvclient", "client/kvctl", "client/kvwire")}
_SHARED = {
    "google.protobuf": "protobuf",
    "google.rpc": "googleapis-common-protos",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter": "opentelemetry-exporter-otlp-proto-grpc",
    "opentelemetry.proto": "opentelemetry-proto",
    **dict.fromkeys(
        (f"opentelemetry.{part}" for part in ("trace", "context", "propagate", "propagators", "util", "attributes", "baggage")),
        "opentelemetry-api",
    ),
}
"""Packages of namespaces that many distributions share."""
BOTH = pytest.mark.parametrize("name", PACKAGES)


@BOTH
def test_wheel_of_each_project_holds_its_packages_and_nothing_else(name: str) -> None:
    """Every file that is beside the modules is there, stubs and style sheets too; no test, no other project's module."""
    inside = set(zipfile.ZipFile(built()[name]).namelist())
    wanted = {
        str(file.relative_to((ROOT / package).parent))
        for package in PACKAGES[name]
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    about = {file for file in inside if file.startswith(f"{name}-{wheels.version()}.dist-info/")}
    assert inside - about == wanted


@BOTH
def test_wheel_of_each_project_describes_itself_completely(name: str) -> None:
    """Its README, its version, the Python it needs, and the requirements of pyproject.toml."""
    about = _metadata(built()[name])
    project = tomllib.loads((ROOT / ("pyproject.toml" if name == "kvnode" else "client/pyproject.toml")).read_text())["project"]
    assert about["Version"] == wheels.version()
    assert about["Requires-Python"] == ">=3.11"
    assert about["Description-Content-Type"] == "text/markdown"
    assert str(about.get_payload()).startswith(f"# {project['name']}\n")
    wanted = {Requirement(requirement) for requirement in project["dependencies"]}
    found = {Requirement(requirement) for requirement in about.get_all("Requires-Dist", [])}
    assert {requirement for requirement in found if "extra" not in str(requirement.marker)} == wanted
    programs = zipfile.ZipFile(built()[name]).read(f"{name}-{wheels.version()}.dist-info/entry_points.txt").decode()
    assert [line.partition(" =")[0] for line in programs.splitlines() if "=" in line] == list(project["scripts"])


@pytest.mark.parametrize(
    ("packages", "distributions"),
    [
        (("client/kvapi", "client/kvclient", "client/kvwire"), ("kvnode-client",)),
        (("client/kvctl",), ("kvnode-client[cli]",)),
        (("kvnode",), ("kvnode", "kvnode-client")),
    ],
)
def test_imports_of_each_package_are_declared_as_requirements(
    packages: tuple[str, ...], distributions: tuple[str, ...]
) -> None:
    """Nothing is there only because something else brings it along: what is imported is required by name."""
    providers = importlib.metadata.packages_distributions()
    declared = {Requirement(text).name for text in wheels.requirements(*distributions)}.union(wheels.PROJECTS)
    missing = set()
    for file in python_files(*packages):
        if file.name == "otlp_json.py":
            continue  # for applications that have OpenTelemetry's SDK, says docs/sdk.md
        for module, _ in imports(parse(file)):
            found = _providers(module, providers)
            if found and not found & declared:
                missing.add(f"{file.relative_to(ROOT)} imports {module} of {' or '.join(sorted(found))}")
    assert not missing, "\n".join(sorted(missing))


def _providers(module: str, providers: dict[str, list[str]]) -> set[str]:
    """The distributions that a module may come from; none for the standard library's and relative ones."""
    top = module.partition(".")[0]
    if top in ("google", "opentelemetry"):
        return {name for prefix, name in _SHARED.items() if module.startswith(prefix)} or {f"an unknown owner of {module}"}
    if top == "pydantic_core":  # pydantic's other half: it requires exactly one version of it
        return {"pydantic"}
    return {name.lower().replace("_", "-") for name in providers.get(top, ())}


def _metadata(wheel: Path) -> Message:
    return Parser().parsestr(zipfile.ZipFile(wheel).read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode())
