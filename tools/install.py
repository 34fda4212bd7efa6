"""Installs kvnode on this machine, or below DESTDIR; takes it away again. `make install` and `make uninstall` call it.

    python3 tools/install.py install --destdir stage
    python3 tools/install.py uninstall --destdir stage

Owns the layout. Each installation is a virtual environment of its own, `/opt/kvnode-VERSION-TIME`, and `/opt/kvnode` is a link
to it that is turned over in one step when the environment is complete. Programs name the environment itself, not the link, in
their first lines: a node that runs keeps what it was started from, also for what it imports later, and gets the new one when it
is restarted. An environment that nothing runs from any more goes with the next installation.

`installed-files` in the environment lists all that was put outside of it; that, and nothing else, is what `uninstall` removes.
Never touches configuration or data, never starts or stops anything. The interpreter that runs this file is the one that nodes
will run with. Needs the network for pip, and Debian's python3-venv.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import wheels

ROOT = Path(__file__).resolve().parent.parent
APPDIR = "/opt/kvnode"
"""Where the files in systemd/ expect the programs; another place is written into them when they are installed."""
UNITS_PYTHON = "/usr/bin/python3"
MANIFEST = "installed-files"
PROGRAMS = ("kvnode", "kvctl")
UNIT_FILES = {
    "*.service": "unitdir",
    "*.target": "unitdir",
    "*.sysusers": "sysusersdir",
    "*.tmpfiles": "tmpfilesdir",
    "examples/*": "examplesdir",
}
"""Which files of systemd/ go where."""
PYTHON_MIN = (3, 11)


@dataclass(frozen=True)
class Layout:
    """Where things belong on the machine that runs nodes; on this one, `destdir` stands before each path."""

    appdir: str = APPDIR
    bindir: str = "/usr/local/bin"
    unitdir: str = "/usr/lib/systemd/system"
    sysusersdir: str = "/usr/lib/sysusers.d"
    tmpfilesdir: str = "/usr/lib/tmpfiles.d"
    examplesdir: str = "/usr/share/kvnode/examples"
    destdir: str = ""

    def here(self, path: str) -> Path:
        """Where that path lies while this runs."""
        return Path(self.destdir + path)

    @property
    def link(self) -> Path:
        """What becomes the current environment."""
        return self.here(self.appdir)

    def environments(self) -> list[Path]:
        """All that were installed here and still lie here."""
        return sorted(found.parent for found in self.link.parent.glob(f"{self.link.name}-*/{MANIFEST}"))

    def manifest(self) -> list[str]:
        """What the current installation put outside of its environment; nothing if there is no installation."""
        file = self.link / MANIFEST
        return file.read_text().splitlines() if file.exists() else []


def main(arguments: list[str]) -> int:
    """Do it; 0 when it is done."""
    if sys.version_info < PYTHON_MIN:
        found, needed = (".".join(map(str, version[:2])) for version in (sys.version_info, PYTHON_MIN))
        sys.exit(
            f"install: kvnode needs Python {needed} or newer, and {sys.executable} is {found}."
            " Say SYSTEM_PYTHON=/path/to/python3."
        )
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["install", "uninstall"])
    for option in fields(Layout):
        parser.add_argument(f"--{option.name}", default=option.default)
    given = vars(parser.parse_args(arguments))
    action = given.pop("action")
    if given["destdir"]:
        given["destdir"] = os.path.abspath(given["destdir"]).rstrip("/")
    layout = Layout(**given)
    os.umask(0o022)  # all may read, and only the owner may write
    try:
        install(layout) if action == "install" else uninstall(layout)
    except PermissionError as error:
        sys.exit(
            f"{action}: {error.filename}: permission denied. Run it as root, or below a directory of yours: DESTDIR=stage."
        )
    except OSError as error:
        sys.exit(f"{action}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{action}: interrupted")
    return 0


def install(layout: Layout) -> None:
    """Put everything in its place. Whatever fails before the link is turned over leaves the present installation as it is."""
    _check(layout)
    before, files = layout.manifest(), _unit_files(layout)
    placed = [*(f"{layout.bindir}/{program}" for program in PROGRAMS), *files]
    environment = f"{layout.appdir}-{wheels.version()}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    tree = layout.here(environment)
    tree.mkdir(parents=True)  # never over another one, which may be in use
    try:
        _make_environment(tree, environment)
        (tree / MANIFEST).write_text("".join(f"{path}\n" for path in placed))
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        raise
    _turn(layout.link, tree.name)
    for program in PROGRAMS:
        _turn(layout.here(f"{layout.bindir}/{program}"), f"{layout.appdir}/bin/{program}")
    for path, text in files.items():
        _write(layout.here(path), text)
    for path in set(before).difference(placed):
        _remove_file(layout, path)
    kept = [old for old in layout.environments() if old != tree and not _clear(old)]
    print(f"install: kvnode {wheels.version()} is in {layout.link}")
    if os.path.realpath(sys.executable) != os.path.realpath(UNITS_PYTHON):
        print(f"Beware: kvnode@.service lets services run no Python but {UNITS_PYTHON}. A drop-in must name this one and its")
        print(
            f"libraries in ExecPaths=: {os.path.realpath(sys.executable)}. What is in a home directory they cannot see at all."
        )
    if not layout.destdir:
        _say_what_comes_next(layout, upgrade=bool(before), kept=kept)


def uninstall(layout: Layout) -> None:
    """Remove what `install` put there."""
    files = layout.manifest()
    if not files:
        sys.exit(f"uninstall: nothing of kvnode is installed in {layout.link}")
    running = sorted(pid for tree in [layout.link, *layout.environments()] for pid in _processes(tree))
    if running:
        sys.exit(
            f"uninstall: process {', '.join(map(str, running))} still runs from {layout.link}."
            " Stop the nodes first: systemctl stop kvnode.target"
        )
    for path in files:
        _remove_file(layout, path)
    layout.link.unlink()
    for tree in layout.environments():
        shutil.rmtree(tree)
    _prune(layout, layout.link.parent)
    print(f"uninstall: kvnode is gone from {layout.link}")
    if not layout.destdir:
        print("Configuration (/etc/kvnode), data (/var/lib/kvnode) and the user kvnode are as they were.")
        print("Next: systemctl daemon-reload")


def _check(layout: Layout) -> None:
    """Find out what would fail before minutes of work."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        sys.exit(f"install: {sys.executable} has no venv module. On Debian: apt-get install python3-venv")
    if layout.link.exists() and not layout.link.is_symlink():
        sys.exit(f"install: {layout.link} is there and was not put there by this: move it away, or say appdir=/another/path")
    for program in PROGRAMS:
        place = layout.here(f"{layout.bindir}/{program}")
        if os.path.lexists(place) and not _is_ours(layout, place):
            sys.exit(f"install: {place} is there and was not put there by this: move it away, or say bindir=/another/path")
    layout.link.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(layout.link.parent, os.W_OK):
        raise PermissionError(13, "", str(layout.link.parent))


def _make_environment(tree: Path, environment: str) -> None:
    """A virtual environment in `tree` that believes to be in `environment`: both wheels, what they need, and no pip."""
    with tempfile.TemporaryDirectory(prefix="kvnode-install-") as scratch:
        interpreter = os.path.realpath(sys.executable)  # python3.11: with another one the environment is of no use
        builder = Path(scratch, "builder", "bin", "python")
        _say("preparing pip")
        _run(interpreter, "-m", "venv", builder.parent.parent)
        _run(interpreter, "-m", "venv", "--without-pip", tree)
        pip = [builder, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", tree / "bin" / "python"]
        _say("building the wheels")
        wheels.build(builder, Path(scratch, "wheels"))
        _say("installing what kvnode needs; this may take a minute")
        _run(*pip, "install", "--no-compile", *wheels.requirements("kvnode", "kvnode-client[cli]"))
        _say("installing kvnode")
        only_ours = ["--no-index", "--no-deps", "--find-links", Path(scratch, "wheels")]
        _run(*pip, "install", "--no-compile", *only_ours, "kvnode", "kvnode-client")
        _run(*pip, "check")
        _say("compiling")
        _relocate(tree, environment)
        _run(interpreter, "-m", "compileall", "-q", "-f", "-j", "0", "-s", tree, "-p", environment, tree / "lib")


def _relocate(tree: Path, environment: str) -> None:
    """Write the environment's future path where venv and pip wrote its present one: first lines of programs, pyvenv.cfg."""
    for file in [tree / "pyvenv.cfg", *(tree / "bin").iterdir()]:
        if not file.is_symlink():
            file.write_bytes(file.read_bytes().replace(os.fsencode(tree), os.fsencode(environment)))


def _unit_files(layout: Layout) -> dict[str, str]:
    """What systemd reads, and the examples: each path and what will be in it."""
    found = {}
    for pattern, place in UNIT_FILES.items():
        for source in sorted((ROOT / "systemd").glob(pattern)):
            name = "kvnode.conf" if place in ("sysusersdir", "tmpfilesdir") else source.name
            found[f"{getattr(layout, place)}/{name}"] = source.read_text().replace(APPDIR, layout.appdir)
    return found


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _turn(link: Path, target: str) -> None:
    """Make or change a symbolic link in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)


def _is_ours(layout: Layout, place: Path) -> bool:
    return place.is_symlink() and os.readlink(place).startswith(f"{layout.appdir}/")


def _remove_file(layout: Layout, path: str) -> None:
    """Remove a file that `install` made, unless another program has been put in its place."""
    place = layout.here(path)
    if Path(path).name not in PROGRAMS or _is_ours(layout, place):
        place.unlink(missing_ok=True)
        _prune(layout, place.parent)


def _prune(layout: Layout, directory: Path) -> None:
    """Remove directories that have become empty: those of kvnode's own, and below DESTDIR all."""
    while directory.is_dir() and not any(directory.iterdir()):
        if not (layout.destdir and directory.is_relative_to(layout.destdir)) and "kvnode" not in directory.parts[-2:]:
            return
        directory.rmdir()
        directory = directory.parent


def _clear(tree: Path) -> bool:
    """Remove an environment unless something runs from it; whether it is gone."""
    if _processes(tree):
        return False
    shutil.rmtree(tree)
    return True


def _processes(tree: Path) -> list[int]:
    """The processes whose interpreter is that environment's."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            program = file.read_bytes().split(b"\0")[0]
        except OSError:  # it has ended meanwhile
            continue
        if program.startswith(os.fsencode(f"{tree}/")):
            found.append(int(file.parent.name))
    return found


def _say_what_comes_next(layout: Layout, upgrade: bool, kept: list[Path]) -> None:
    print("Next:")
    print("  systemd-sysusers                       # makes the user kvnode")
    print("  systemd-tmpfiles --create kvnode.conf  # makes /etc/kvnode")
    print("  systemctl daemon-reload")
    if upgrade:
        print("  systemctl restart kvnode@NAME          # one node after the other")
        print("  kvctl health --wait 60                 # after each")
    else:
        print(f"  write /etc/kvnode/NAME.toml; there are examples in {layout.examplesdir}")
        print("  kvnode doctor --config /etc/kvnode/NAME.toml")
        print("  systemctl enable --now kvnode@NAME")
    for tree in kept:
        print(f"Nodes still run from {tree}; the next installation removes it when they do not.")


def _say(step: str) -> None:
    print(f"install: {step}", flush=True)


def _run(*command: str | Path) -> None:
    """Run a step; when it fails, its own words say why."""
    if subprocess.run(command, env=wheels.ENVIRONMENT).returncode:
        sys.exit(f"install: this failed: {' '.join(map(str, command))}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
