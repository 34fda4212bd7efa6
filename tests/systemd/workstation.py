"""The places of docs/operations.md: the hosts, which are machines of the lab, and the workstation that tends them.

The workstation is a directory and a shell in the hosts' network. Its programs are this machine's; in front of them lie
stand-ins for what there is no room for here:

- `ssh HOST COMMAND...` runs the command in that machine, as its root, with this standard input; there is no sshd.
- `make install DESTDIR=stage` takes what that very command made before, for all tests (tests/packaging/stage.py). The second
  time it is the same release in an environment of another name: an upgrade as far as files go.
- `make setup` makes `.venv` with the stage's kvctl.

Owns these. Knows nothing of the page.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.systemd.lab.machine import Machine
from tests.systemd.lab.namespaces import ENVIRONMENT
from tests.systemd.lab.network import Network

TIMEOUT_S = 90.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOGIN = f"env -i HOME=/root USER=root LC_ALL=C.UTF-8 SYSTEMD_PAGER= SYSTEMD_COLORS=0 PATH={_PATH}"
"""Who logs in as root gets this, without a terminal."""

_SSH = f"""#!/bin/bash
# ssh HOST COMMAND...
host=$1
shift
exec nsenter --target "$(cat @hosts@/"$host")" --all --wdns=/root {_LOGIN} bash -c "$*"
"""
_MAKE = """#!/bin/bash
# make install DESTDIR=stage; make setup
set -eu
case "$*" in
"install DESTDIR=stage")
	old=$(readlink stage/opt/kvnode || true)
	rm -rf stage
	cp -al @stage@ stage 2> /dev/null || { rm -rf stage && cp -a @stage@ stage; }
	if [ -n "$old" ]; then
		new=$(readlink stage/opt/kvnode)
		grep -rlI --exclude-dir=lib "$new" stage/opt | xargs sed -i "s/$new/$new-b/g"
		mv "stage/opt/$new" "stage/opt/$new-b"
		ln -sfn "$new-b" stage/opt/kvnode
	fi
	echo "install: kvnode $(basename "$(readlink stage/opt/kvnode)" | cut -d- -f2) is in $PWD/stage/opt/kvnode"
	;;
setup)
	/usr/bin/python3 -m venv --without-pip .venv
	echo @stage@/opt/kvnode/lib/python3*/site-packages > "$(echo .venv/lib/python3*/site-packages)/stage.pth"
	sed "1c#!$PWD/.venv/bin/python" @stage@/opt/kvnode/bin/kvctl > .venv/bin/kvctl
	chmod +x .venv/bin/kvctl
	;;
*)
	echo "this workstation cannot: make $*" >&2
	exit 2
	;;
esac
"""
_SESSION = """
trap 'code=$?; { declare -px; printf "cd %q\\n" "$PWD"; } > @state@; exit $code' EXIT
[ ! -e @state@ ] || . @state@
"""
"""What was exported, and where one was, is there again for the next block."""


class Host:
    """A machine of the lab, to be logged in to."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, commands: str) -> tuple[int, str]:
        """Run commands in a shell of its own; answers the exit code of the first that fails, or 0, and all that was printed."""
        login = ("nsenter", "--target", str(self.machine.pid), "--all", "--wdns=/root", *shlex.split(_LOGIN))
        return _run(*login, "bash", "-ec", commands)


class Workstation:
    """In the network, below a directory of its own."""

    def __init__(self, network: Network, stage: Path, directory: Path, hosts: Mapping[str, Machine]) -> None:
        self._network = network
        places = {"hosts": directory / "hosts", "stage": stage, "state": directory / "state"}
        self._home, programs = directory / "kvnode", directory / "programs"
        for made in (self._home, programs, places["hosts"]):
            made.mkdir()
        for name, machine in hosts.items():
            (places["hosts"] / name).write_text(f"{machine.pid}\n")
        for name, text in {"ssh": _SSH, "make": _MAKE}.items():
            (programs / name).write_text(_filled(text, places))
            (programs / name).chmod(0o755)
        self._path = f"{programs}:{ENVIRONMENT['PATH']}"
        self._session = _filled(_SESSION, places)

    def run(self, commands: str) -> tuple[int, str]:
        """Run commands in the directory, as `Host.run`; what they export is there for later ones."""
        login = ("env", "-i", f"HOME={self._home}", "LC_ALL=C.UTF-8", f"PATH={self._path}")
        enter = ("nsenter", "--target", str(self._network.pid), "--net", f"--wd={self._home}")
        return _run(*enter, *login, "bash", "-ec", self._session + commands)


def _filled(text: str, places: Mapping[str, Path]) -> str:
    for name, path in places.items():
        text = text.replace(f"@{name}@", shlex.quote(str(path)))
    return text


def _run(*command: str) -> tuple[int, str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S
    )
    return done.returncode, done.stdout
