"""What `make install` leaves behind, what an upgrade does to nodes that run, and what `make uninstall` takes away."""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

import kvclient
from kvctl.playground import Playground, free_base_port
from tests.packaging.stage import ROOT, SYSTEM_PYTHON, copy_of, make, python_of
from tools import install
from tools.install import Layout

# What is in the tree.


def test_installed_files_wherever_made_name_no_path_of_their_making(stage: Path) -> None:
    """Programs, pyvenv.cfg, bytecode: as if made in /opt/kvnode-VERSION-TIME. DESTDIR and the checkout are nowhere in them."""
    places = (
        argument
        for place in (stage.parent / "stage-unfinished", stage, ROOT, "kvnode-install-")
        for argument in ("-e", str(place))
    )
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--fixed-strings", *places, stage], capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (1, "")
    environment = f"/opt/{os.readlink(stage / 'opt/kvnode')}"
    for program in ("kvnode", "kvctl"):
        assert (stage / f"opt/kvnode/bin/{program}").read_text().startswith(f"#!{environment}/bin/python\n")
        assert os.readlink(stage / f"usr/local/bin/{program}") == f"/opt/kvnode/bin/{program}"
    assert f"-m venv --without-pip {environment}\n" in (stage / "opt/kvnode/pyvenv.cfg").read_text()
    assert not Path(environment).exists(), "the machine's own /opt has nothing of it"


def test_installed_files_may_be_read_by_all_and_written_by_their_owner(stage: Path) -> None:
    """The service's user reads and runs them; only who installed them changes them."""
    for path in stage.rglob("*"):
        status = path.lstat()
        assert status.st_uid == os.geteuid()
        if not path.is_symlink():
            mode = stat.S_IMODE(status.st_mode)
            assert not mode & 0o022, f"{path} {mode:o}"
            assert mode & 0o555 == 0o555 or (path.is_file() and mode & 0o444 == 0o444), f"{path} {mode:o}"


def test_installed_bytecode_of_every_module_is_fresh(stage: Path) -> None:
    """Services cannot write it: a module without it would be compiled at each start."""
    packages = next((stage / "opt/kvnode/lib").iterdir()) / "site-packages"
    sources = [source for source in packages.rglob("*.py") if source.read_bytes().strip()]
    assert len(sources) > 1000
    for source in sources:
        cached = next((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*[0-9].pyc"))
        flags, modified, size = struct.unpack("<III", cached.read_bytes()[4:16])
        assert (flags, modified, size) == (0, int(source.stat().st_mtime), source.stat().st_size), source


def test_installed_environment_has_both_wheels_and_no_installer(stage: Path) -> None:
    """Server and command line, not linked to the checkout; no pip, with which the next installation would lose what it adds."""
    script = "import importlib.metadata as m; print(*(found.metadata['Name'] for found in m.distributions()))"
    done = subprocess.run([python_of(stage), "-I", "-c", script], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert {"kvnode", "kvnode-client", "duckdb", "lmdb", "typer", "uvloop"} <= found
    assert "pip" not in found
    assert not list((stage / "opt").rglob("direct_url.json"))


def test_installed_node_serves_and_installed_kvctl_sees_it(stage: Path, node: Playground) -> None:
    """The whole way with nothing but the installation: a node, and the command line."""
    kvctl = [python_of(stage), "-I", "-m", "kvctl", "--endpoints", node.endpoints[0]]
    for command in (["put", "greeting", "hello"], ["get", "greeting"], ["status"], ["latency"]):
        done = subprocess.run([*kvctl, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert "hello" in subprocess.run([*kvctl, "get", "greeting"], capture_output=True, text=True, timeout=60).stdout


def test_stage_packed_and_unpacked_elsewhere_still_runs(stage: Path, room: Path) -> None:
    """A tarball of it is what other hosts get."""
    packed = subprocess.Popen(["tar", "-C", stage, "-cf", "-", "."], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-C", room, "-xf", "-"], stdin=packed.stdout, check=True)
    assert packed.wait() == 0
    done = subprocess.run([python_of(room), "-I", "-m", "kvnode", "version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"kvnode {install.wheels.version()}\n"), done.stderr


def test_uninstall_of_a_stage_leaves_only_what_others_put_there(stage: Path, room: Path) -> None:
    """Configuration, data and an administrator's own files stay, and nothing else does, not even a directory."""
    copy_of(stage, room / "stage")
    others = {
        "etc/kvnode/n1.toml",
        "var/lib/kvnode/n1/identity",
        "usr/local/bin/another",
        "etc/systemd/system/kvnode@.service.d/my.conf",
    }
    for name in others:
        (room / "stage" / name).parent.mkdir(parents=True, exist_ok=True)
        (room / "stage" / name).write_text("mine")
    said = make("uninstall", room / "stage")
    assert "kvnode is gone" in said
    left = {
        str(path.relative_to(room / "stage")) for path in (room / "stage").rglob("*") if not path.is_dir() or path.is_symlink()
    }
    assert left == others
    assert not [path for path in (room / "stage").rglob("*") if path.is_dir() and not any(path.iterdir())]


# An installation in a directory that plays the part of the whole machine: no DESTDIR, real paths.


@pytest.fixture
def layout(room: Path) -> Layout:
    """Where it goes."""
    directories = {name: str(room / name) for name in ("bindir", "unitdir", "sysusersdir", "tmpfilesdir")}
    return Layout(appdir=str(room / "opt/kvnode"), examplesdir=str(room / "share/kvnode/examples"), **directories)


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each installation is a second later than the one before."""
    count = iter(range(1_800_000_000, 1_900_000_000))
    gmtime = install.time.gmtime
    monkeypatch.setattr(install.time, "gmtime", lambda: gmtime(next(count)))


@pytest.fixture
def installs_stage(stage: Path, moments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installations take the stage's environment in place of building one."""

    def make_environment(tree: Path, environment: str) -> None:
        before = f"/opt/{os.readlink(stage / 'opt/kvnode')}"
        copy_of((stage / "opt/kvnode").resolve(), tree)
        for file in [tree / "pyvenv.cfg", *(tree / "bin").iterdir(), tree / install.MANIFEST]:
            if not file.is_symlink():
                text, mode = file.read_text(), file.stat().st_mode
                file.unlink()  # what is written now must not be written into the stage
                file.write_text(text.replace(before, environment))
                file.chmod(mode)

    monkeypatch.setattr(install, "_make_environment", make_environment)


@pytest.fixture
def installs_nothing(moments: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installations make an environment in which nothing is installed."""
    monkeypatch.setattr(install, "_make_environment", lambda tree, environment: None)


def test_upgrade_under_a_running_node_leaves_it_what_it_was_started_from(
    layout: Layout, installs_stage: None, room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new environment here is an empty one. A node that runs notices nothing, not even by what it imports only now; then it
    stops gracefully. Its environment stays for as long as it runs, and goes with the installation after that."""
    install.install(layout)
    first = layout.link.resolve()
    kvnode = Path(layout.bindir, "kvnode")
    late = subprocess.Popen(
        [_interpreter(kvnode), "-I", "-c", LATE_IMPORT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    command = [str(kvnode), "run", "--config", "{config}"]
    cluster = Playground.create(room / "node", nodes=1, base_port=free_base_port(1), shards=2, command=command)
    with cluster, kvclient.connect_sync(cluster.uri) as kv:
        kv.put("before", "upgrade")
        monkeypatch.setattr(install, "_make_environment", lambda tree, environment: None)
        install.install(layout)
        second = layout.link.resolve()
        assert second != first
        assert f"Nodes still run from {first}" in capsys.readouterr().out
        kv.put("after", "upgrade")
        assert kv.get("before") is not None
        assert late.communicate("go\n", timeout=30)[0] == f"{first}\n"
        with pytest.raises(SystemExit, match="still runs from"):
            install.uninstall(layout)
        cluster.stop("n1")
    assert '"level":"error"' not in cluster.log_tail("n1", 1000)
    install.install(layout)
    assert not first.exists()
    assert not second.exists()
    assert layout.environments() == [layout.link.resolve()]


LATE_IMPORT = """
import sys
input()
import kvnode.config, lmdb
assert lmdb.__file__.startswith(sys.prefix)
print(sys.prefix if kvnode.config.__file__.startswith(sys.prefix) else kvnode.config.__file__)
"""


def test_upgrade_that_fails_leaves_the_present_installation(
    layout: Layout, installs_nothing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network, no space: what was installed still is, and nothing is left of the attempt."""
    install.install(layout)
    before = layout.link.resolve()

    def fail(tree: Path, environment: str) -> None:
        (tree / "half").write_text("made")
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(install, "_make_environment", fail)
    with pytest.raises(OSError, match="no space"):
        install.install(layout)
    assert layout.link.resolve() == before
    assert layout.environments() == [before]
    assert [path.name for path in layout.link.parent.iterdir()].count("kvnode") == 1
    assert len(list(layout.link.parent.iterdir())) == 2


def test_install_into_an_environment_that_is_there_refuses(
    layout: Layout, installs_nothing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, or a clock that went back: nodes may run from it."""
    moment = install.time.gmtime()
    monkeypatch.setattr(install.time, "gmtime", lambda: moment)
    install.install(layout)
    before = layout.link.resolve()
    with pytest.raises(FileExistsError, match=str(before)):
        install.install(layout)
    assert (before / install.MANIFEST).exists()


def test_upgrade_removes_files_that_the_new_version_lacks(layout: Layout, installs_nothing: None) -> None:
    """An example or a unit that is no longer there would mislead."""
    install.install(layout)
    obsolete = Path(layout.examplesdir, "n4.toml")
    obsolete.parent.mkdir(parents=True, exist_ok=True)
    obsolete.write_text("")
    with (layout.link / install.MANIFEST).open("a") as manifest:
        manifest.write(f"{obsolete}\n")
    install.install(layout)
    assert not obsolete.exists()
    assert Path(layout.examplesdir, "n1.toml").exists()


def test_install_elsewhere_writes_that_place_into_units(layout: Layout, installs_nothing: None) -> None:
    """ExecStart= and ExecPaths= name what is there, wherever that is; systemd's other files are where they belong."""
    install.install(layout)
    unit = Path(layout.unitdir, "kvnode@.service").read_text()
    assert f"ExecStart={layout.appdir}/bin/kvnode run" in unit
    assert install.APPDIR not in unit.replace(layout.appdir, "")
    assert {path.name for path in Path(layout.unitdir).iterdir()} == {"kvnode@.service", "kvnode.target"}
    assert Path(layout.sysusersdir, "kvnode.conf").read_text() == (ROOT / "systemd/kvnode.sysusers").read_text()
    assert Path(layout.tmpfilesdir, "kvnode.conf").read_text() == (ROOT / "systemd/kvnode.tmpfiles").read_text()


def test_install_says_what_comes_next_and_does_nothing_of_it(
    layout: Layout, installs_nothing: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users, directories and services are for who installs to make: it is told how. Uninstalling says what it leaves."""
    monkeypatch.setattr(install.subprocess, "run", lambda *command, **_: pytest.fail(f"it ran {command}"))
    monkeypatch.setattr(install.sys, "executable", SYSTEM_PYTHON)
    install.install(layout)
    said = capsys.readouterr().out
    for command in (
        "systemd-sysusers",
        "systemd-tmpfiles --create",
        "systemctl daemon-reload",
        "systemctl enable --now kvnode@NAME",
    ):
        assert f"\n  {command}" in said
    assert "restart" not in said
    install.install(layout)
    assert "\n  systemctl restart kvnode@NAME" in capsys.readouterr().out
    install.uninstall(layout)
    assert (
        "Configuration (/etc/kvnode), data (/var/lib/kvnode) and the user kvnode are as they were." in capsys.readouterr().out
    )


def test_install_with_a_python_that_the_unit_refuses_says_so(
    layout: Layout, installs_nothing: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services may run what ExecPaths= names, and see no home directory."""
    monkeypatch.setattr(install.sys, "executable", "/elsewhere/bin/python3")
    install.install(layout)
    assert "in ExecPaths=: /elsewhere/bin/python3." in capsys.readouterr().out
    monkeypatch.setattr(install.sys, "executable", SYSTEM_PYTHON)
    install.install(layout)
    assert "Beware" not in capsys.readouterr().out


def test_install_over_what_others_put_there_refuses(layout: Layout, installs_nothing: None) -> None:
    """A kvctl that pip installed, a directory of somebody else: they are named, and stay."""
    foreign = Path(layout.bindir, "kvctl")
    foreign.parent.mkdir(parents=True)
    foreign.write_text("another")
    with pytest.raises(SystemExit, match=rf"{foreign} is there and was not put there by this: .*bindir="):
        install.install(layout)
    foreign.unlink()
    layout.link.mkdir(parents=True)
    with pytest.raises(SystemExit, match=rf"{layout.link} is there and was not put there by this: .*appdir="):
        install.install(layout)
    assert list(layout.link.iterdir()) == []


def test_uninstall_spares_a_program_that_took_the_place_of_ours(layout: Layout, installs_nothing: None) -> None:
    """Somebody replaced the link by something of theirs."""
    install.install(layout)
    program = Path(layout.bindir, "kvctl")
    program.unlink()
    program.write_text("another")
    install.uninstall(layout)
    assert program.read_text() == "another"
    assert not layout.link.is_symlink()


def test_uninstall_where_nothing_is_installed_says_so(layout: Layout) -> None:
    """Most likely another DESTDIR or appdir was meant."""
    with pytest.raises(SystemExit, match=f"nothing of kvnode is installed in {layout.link}"):
        install.uninstall(layout)


def test_install_without_venv_module_names_debians_package(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's python3 comes without it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find_spec(name))
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        install.install(layout)


def test_install_with_an_old_python_says_which_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to name another one."""
    monkeypatch.setattr(install.sys, "version_info", (3, 9, 2, "final", 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, and .* is 3\.9\. Say SYSTEM_PYTHON="):
        install.main(["install"])


def test_install_where_nothing_may_be_written_says_who_may(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found out before minutes of work."""
    monkeypatch.setattr(install.os, "access", lambda path, mode: False)
    with pytest.raises(SystemExit, match=r"permission denied\. Run it as root, or below a directory of yours: DESTDIR=stage\."):
        install.main(["install", f"--appdir={layout.appdir}", f"--bindir={layout.bindir}"])


def _interpreter(program: Path) -> str:
    """What a script's first line names."""
    return program.read_text().partition("\n")[0].removeprefix("#!")
