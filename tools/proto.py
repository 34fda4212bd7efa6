"""Generates client/kvapi from protos/, and checks that it is up to date, well styled and compatible.

    python tools/proto.py generate
    python tools/proto.py check

Owns the versions of the generators. They live in an environment of their own, `.venv-proto`, because the compiler of
grpcio-tools 1.76 needs protobuf 6, while kvnode runs with protobuf 7 too: code from an older compiler runs with newer
libraries, not the other way round. Needs nothing but the standard library; `buf` (lint, breaking changes) comes from npm, and
where it is not to be had those two checks are skipped, with a word about it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "client"
ENVIRONMENT = ROOT / ".venv-proto"
GENERATORS = ("grpcio-tools==1.76.0", "protobuf==6.33.6", "mypy-protobuf==5.1.0", "setuptools==80.9.0")
BUF = "@bufbuild/buf@1.74.0"
OUTPUTS = ("python_out", "pyi_out", "grpc_python_out", "mypy_grpc_out")


def main(arguments: list[str]) -> int:
    """Run the command; 0 when all is well."""
    if arguments == ["generate"]:
        generate(GENERATED)
        return 0
    if arguments == ["check"]:
        return max(check_generated(), check_style())
    print(__doc__, file=sys.stderr)
    return 2


def generate(target: Path) -> None:
    """Write the generated modules and their type stubs below `target`, and remove those that no proto makes any more."""
    python = _environment()
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])  # protoc finds its plugin for stubs there
    protos = sorted(str(proto.relative_to(PROTOS)) for proto in PROTOS.rglob("*.proto"))
    before = _generated(target)
    command = [str(python), "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", *(f"--{name}={target}" for name in OUTPUTS)]
    made = subprocess.run([*command, *protos], cwd=PROTOS, env=os.environ | {"PATH": path}, stderr=subprocess.PIPE, text=True)
    if made.returncode:
        sys.exit(made.stderr)
    stems = {proto.removesuffix(".proto") for proto in protos}
    for name in before:
        if name.rpartition("_pb2")[0] not in stems:
            (target / name).unlink()


def check_generated() -> int:
    """Compare client/kvapi with what the protos generate."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        ours, fresh = _generated(GENERATED), _generated(Path(scratch))
    different = sorted(name for name in ours.keys() | fresh.keys() if ours.get(name) != fresh.get(name))
    for name in different:
        print(f"proto: client/{name} is not what protos/ generates; run `make proto`", file=sys.stderr)
    if not different:
        print(f"proto: {len(ours)} generated files are up to date")
    return 1 if different else 0


def check_style() -> int:
    """Lint the protos, and compare them with their last version in git."""
    buf, why_not = _buf()
    if why_not:
        print(f"proto: skipped lint and breaking changes: {why_not}")
        return 0
    failed = subprocess.run([buf, "lint", "protos"], cwd=ROOT).returncode
    if not failed:
        print("proto: no lint")
    against = _last_version()
    if against is None:
        print("proto: skipped breaking changes: git knows no earlier version")
        return 1 if failed else 0
    broken = subprocess.run([buf, "breaking", "protos", "--against", f".git#ref={against},subdir=protos"], cwd=ROOT).returncode
    if not broken:
        print(f"proto: no breaking changes since {against[:12]}")
    return 1 if failed or broken else 0


def _last_version() -> str | None:
    """The commit to compare with: PROTO_BASE, else HEAD if the protos differ from it, else the version before HEAD's."""
    base = os.environ.get("PROTO_BASE")
    if base:
        return base
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "protos"], cwd=ROOT, capture_output=True)
    if changed.returncode not in (0, 1):
        return None
    log = ["git", "log", "-n", "2", "--format=%H", "--", "protos/*.proto"]
    commits = subprocess.run(log, cwd=ROOT, capture_output=True, text=True).stdout.split()
    return next(iter(commits if changed.returncode else commits[1:]), None)


def _generated(below: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(below)): file.read_bytes()
        for file in sorted((below / "kvapi").rglob("*_pb2*.py*"))
        if file.suffix in (".py", ".pyi")
    }


def _buf() -> tuple[Path, str]:
    """Where buf is, and why it cannot be used if so."""
    home = ENVIRONMENT / BUF.replace("/", "-")
    buf = home / "node_modules" / ".bin" / "buf"
    if buf.exists():
        return buf, ""
    npm = shutil.which("npm")
    if npm is None:
        return buf, "they need buf, which needs npm (on Debian: apt-get install npm)"
    install: list[str | Path] = [
        npm,
        "install",
        "--prefix",
        home,
        "--no-save",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]
    installed = subprocess.run([*install, BUF], cwd=ROOT, capture_output=True, text=True)
    usable = (
        not installed.returncode and buf.exists() and not subprocess.run([buf, "--version"], capture_output=True).returncode
    )
    return buf, "" if usable else f"{BUF} could not be installed from npm: {installed.stderr.strip()[-500:]}"


def _environment() -> Path:
    """The interpreter of `.venv-proto`, made anew when the generators' versions changed."""
    python, stamp, wanted = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".generators", "\n".join(GENERATORS)
    if not (python.exists() and stamp.exists() and stamp.read_text() == wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *GENERATORS], check=True)
        stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
