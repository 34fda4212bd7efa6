"""A machine with a real systemd as PID 1, made of namespaces: it boots in half a second and leaves nothing behind.

Owns the machine's life, and what a test asks of it: commands, files, properties of units, the journal. Knows nothing of kvnode.
The machine has this host's /usr with a stage's files over it, read-only, and all else of its own: processes, mounts, network,
host name, control groups, users. What is written lies in memory and is gone with the machine.

It ends with `kill`, with the process that made it, however that ends, or by itself. Only an empty control group may be left
then; the next machine removes it.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tests.systemd.lab import namespaces
from tests.systemd.lab.journal import Entry, parse

Answer = TypeVar("Answer")

BOOT = Path(__file__).with_name("boot.sh")
BOOT_TIMEOUT_S = 30.0
TIMEOUT_S = 60.0
"""After which what is waited for will not come any more: it is no claim about how long that takes."""
POLL_INTERVAL_S = 0.05
_GROUP = "kvnode-lab"
_numbers = itertools.count(1)


class Machine:
    """Of one test, or of several that share it. A context manager; it has booted when the constructor returns."""

    def __init__(self, stage: Path | None, directory: Path, name: str = "lab") -> None:
        """`stage`: what `make install` made for it; None: nothing is installed there, and /usr and /opt can be written to.
        `directory`: an empty one, for its root to be mounted over; beside it lies what it said on its console."""
        self.name = name
        self._group = f"{_GROUP}-{os.getpid()}-{next(_numbers)}"
        remove_leftovers()
        self._console = directory.with_name(f"{directory.name}.console")
        command = [str(BOOT), str(directory), name, self._group, str(stage or "")]
        with self._console.open("wb") as console:
            self._process = namespaces.spawn(namespaces.OF_A_MACHINE, command, console)
        self.pid = 0
        """Of its systemd, as this host counts."""
        try:
            self._await_boot()
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_error: object) -> None:
        self.kill()

    def _await_boot(self) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._console.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"systemd did not boot (exit code {self._process.poll()}): {said}")
            self.pid = self.pid or self._find_systemd()
            if self.pid and self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                return
            time.sleep(POLL_INTERVAL_S)

    def _find_systemd(self) -> int:
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), 0)
        except FileNotFoundError:  # (It ended between two looks.)
            return 0

    # ---- what a test asks --------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as its root. Raises AssertionError when it fails, unless `check` is False."""
        return namespaces.run(["nsenter", "--target", str(self.pid), "--all", *command], timeout_s, check)

    def call(self, work: Callable[[], Answer]) -> Answer:
        """What a function of this process answers in the machine's network."""
        return namespaces.call_in_network(self.pid, work)

    def path(self, path: str) -> Path:
        """A file of the machine, as this host sees it."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the machine, and the directories above it."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def add_drop_in(self, unit: str, name: str, text: str) -> None:
        """Add settings to a unit: they are in force for what starts from now on."""
        self.write(f"/run/systemd/system/{unit}.d/{name}.conf", text)
        self.run("systemctl", "daemon-reload")

    def remove_drop_in(self, unit: str, name: str) -> None:
        """Take back what `add_drop_in` has added."""
        self.path(f"/run/systemd/system/{unit}.d/{name}.conf").unlink()
        self.run("systemctl", "daemon-reload")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, by name, as `systemctl show` has them."""
        shown = self.run("systemctl", "show", unit, f"--property={','.join(properties)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def mark(self) -> str:
        """A place in the journal: its present end."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--lines=0", "--show-cursor").stdout.strip().rpartition("-- cursor: ")[2]

    def journal(self, unit: str, *options: str, since: str = "") -> list[Entry]:
        """What the journal has of a unit, oldest first: what its processes said, and what systemd said of it; `since` a mark.

        `options` are journalctl's.
        """
        self.run("journalctl", "--sync")
        # (Together with a unit, --after-cursor leaves out one entry too many.)
        begin = (f"--cursor={since}",) if since else ()
        return parse(self.run("journalctl", f"--unit={unit}", "--output=json", "--all", *begin, *options).stdout, since)

    def until(self, probe: Callable[[], Answer], what: str, timeout_s: float = TIMEOUT_S) -> Answer:
        """The first true answer of `probe`. Blocks."""
        deadline = time.monotonic() + timeout_s
        while not (answer := probe()):
            assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
            time.sleep(POLL_INTERVAL_S)
        return answer

    # ---- its end -----------------------------------------------------------------------------------------------------

    def halt(self, timeout_s: float = TIMEOUT_S) -> None:
        """Shut down in good order: every unit is stopped. Then nothing runs any more."""
        os.kill(self.pid, signal.SIGRTMIN + 3)
        try:
            self._process.wait(timeout_s)
        finally:
            self.kill()

    def kill(self) -> None:
        """Pull the plug, and clean up. Idempotent."""
        if self._process.poll() is None:
            # (The kernel ends all other processes of the machine before PID 1 is gone.)
            os.kill(self.pid or self._process.pid, signal.SIGKILL)
            self._process.wait()
        remove_leftovers(self._group)


def remove_leftovers(own: str = "") -> None:
    """Remove the control groups of a machine that has ended, and those of any whose maker is no more."""
    with _mounted_groups() as groups:
        for group in groups:
            maker = re.fullmatch(rf"{_GROUP}-(\d+)-.+", group.name)
            if group.name == own or (maker and not Path(f"/proc/{maker[1]}").exists()):
                for below, _, _ in os.walk(group, topdown=False):
                    with suppress(FileNotFoundError):  # (Another machine that begins was quicker.)
                        os.rmdir(below)


def control_groups_of(maker: int) -> list[str]:
    """The names of the control groups of all machines that a process has made, and that are still there."""
    with _mounted_groups() as groups:
        return [group.name for group in groups if group.name.startswith(f"{_GROUP}-{maker}-")]


@contextmanager
def _mounted_groups() -> Iterator[list[Path]]:
    """The control groups of all machines, wherever this host has control groups mounted, or has not."""
    shell = 'mount -t cgroup2 cgroup2 "$1"; echo "$1$(sed -n s/^0:://p /proc/self/cgroup)"; exec sleep infinity'
    with tempfile.TemporaryDirectory(prefix="kvnode-lab-") as directory:
        command = ["sh", "-euc", shell, "sh", directory]
        holder = namespaces.spawn(("--mount", "--propagation", "private"), command, subprocess.PIPE)
        try:
            assert holder.stdout is not None
            own = Path(f"/proc/{holder.pid}/root") / holder.stdout.readline().decode().strip().lstrip("/")
            yield list(own.glob(f"{_GROUP}-*"))
        finally:
            holder.kill()
            holder.communicate()
