"""The daemons of a playground: starting, signalling and ending their processes.

Owns `cluster.json`'s record of each node's process. Asks the nodes nothing (that is `kvctl.probe`), and so knows only
whether a process is there, not whether it serves.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from kvctl import process
from kvctl.playground_files import HOST, ClusterRecord, PlaygroundError, PlaygroundFiles, record_of
from kvctl.process import ProcessId, ProcessState

STOP_TIMEOUT_S = 15.0
"""A graceful stop hands leadership over and flushes; longer than this is a hang."""
DAEMON = (sys.executable, "-m", "kvnode", "run", "--config", "{config}")

CHECK = (sys.executable, "-m", "kvnode", "config", "check", "--config", "{config}")
CHECK_TIMEOUT_S = 30.0


def environment() -> dict[str, str]:
    """What daemons inherit. It beats their files: another node's identity in it would give all nodes the same one."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("KVNODE_NODE__", "KVNODE_CLUSTER__"))}


def check_config(files: PlaygroundFiles, record: ClusterRecord) -> None:
    """Have kvnode itself judge the settings, before anything is written down. Raises PlaygroundError.

    A record with a command of its own is not checked: only that program knows what it takes.
    """
    if record.command is not None:
        return
    with tempfile.TemporaryDirectory(prefix="kvctl-") as directory:
        draft = Path(directory) / "kvnode.toml"
        draft.write_text(files.config_text(record, next(iter(record.nodes))))
        command = [part.replace("{config}", str(draft)) for part in CHECK]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False, cwd=directory
        )
    if done.returncode == 0:
        return
    if "No module named kvnode" in done.stderr:
        raise PlaygroundError("kvnode is not installed here, and a playground runs its daemons", hint="pip install kvnode")
    problems = [line.removeprefix("kvnode: ").replace(f" (from {draft})", "") for line in done.stderr.splitlines()]
    raise PlaygroundError(
        f"kvnode refuses these settings: {'; '.join(problems)}",
        hint="nothing was changed; --set SECTION.FIELD= takes a setting back; all settings: kvnode config dump --preset local",
        usage=True,
    )


class Daemons:
    """The processes of one playground."""

    def __init__(self, files: PlaygroundFiles) -> None:
        self._files = files

    def start(self, record: ClusterRecord, name: str) -> bool:
        """Start a node unless it runs; a paused one is resumed. Returns whether it was started.

        `record` is the one under the directory's lock (`PlaygroundFiles.changing`). Raises PlaygroundError.
        """
        node = record_of(record, name)
        if node.process is not None and process.state_of(node.process) is not ProcessState.GONE:
            process.send_signal(node.process, signal.SIGCONT)
            return False
        _check_port_free(name, node.address)
        if not self._files.config_path(name).exists():
            self._files.write_config(record, name)
        config = str(self._files.config_path(name))
        command = [part.replace("{config}", config) for part in record.command or DAEMON]
        node.log_offset = self._files.log_size_bytes(name)
        try:
            node.process = process.spawn(
                command, cwd=self._files.node_directory(name), log_path=self._files.log_path(name), env=environment()
            )
        except OSError as error:
            raise PlaygroundError(f"{name}: cannot run {command[0]}: {error.strerror}") from None
        return True

    def signal_end(self, names: Iterable[str], number: signal.Signals, timeout_s: float) -> dict[str, tuple[float, bool]]:
        """Signal nodes and wait for their ends: name -> (seconds, whether it ended). Ended nodes count as stopped by us."""
        with self._files.locked():
            record = self._files.load()
            processes = {name: record_of(record, name).process for name in names}
            began = time.monotonic()
            for running in processes.values():
                if running is not None:
                    process.send_signal(running, number)
                    process.send_signal(running, signal.SIGCONT)  # a paused process acts on SIGTERM only when it goes on
        results = {name: _wait_end(running, began, timeout_s) for name, running in processes.items()}
        with self._files.changing() as record:
            for name, (_, ended) in results.items():
                if ended and record.nodes[name].process == processes[name]:
                    record.nodes[name].process = None
        return results

    def end(self, names: Iterable[str], timeout_s: float) -> dict[str, float]:
        """SIGTERM to all, SIGKILL to those that stay."""
        results = self.signal_end(names, signal.SIGTERM, timeout_s)
        stubborn = [name for name, (_, ended) in results.items() if not ended]
        killed = self.signal_end(stubborn, signal.SIGKILL, STOP_TIMEOUT_S)
        return {name: seconds + (killed[name][0] if name in killed else 0.0) for name, (seconds, _) in results.items()}

    def freeze(self, name: str, number: signal.Signals, state: ProcessState) -> None:
        """Pause or resume a node, and wait until it is so. Raises PlaygroundError."""
        running = record_of(self._files.load(), name).process
        if running is None or not process.send_signal(running, number):
            raise PlaygroundError(
                f"{name} does not run", hint=f"start it: kvctl cluster start {name} --dir {self._files.directory}"
            )
        if not process.wait_state(running, state, STOP_TIMEOUT_S):
            raise PlaygroundError(f"{name} (pid {running.pid}) is not {state.value} {STOP_TIMEOUT_S:.0f} s after {number.name}")


def _wait_end(running: ProcessId | None, began: float, timeout_s: float) -> tuple[float, bool]:
    if running is None:
        return 0.0, True
    ended = process.wait_gone(running, began + timeout_s - time.monotonic())
    return time.monotonic() - began, ended


def _bindable(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
        return True


def _check_port_free(name: str, address: str) -> None:
    if not _bindable(int(address.rpartition(":")[2])):
        raise PlaygroundError(
            f"{name} cannot listen on {address}: another process has the port", hint="choose another --base-port (and --dir)"
        )


def free_base_port(nodes: int) -> int:
    """A port P such that P .. P + nodes - 1 are free now, below the range that outgoing connections use."""
    for _ in range(200):
        base = random.randrange(17_000, 32_000 - nodes)
        if all(_bindable(port) for port in range(base, base + nodes)):
            return base
    raise PlaygroundError(f"found no {nodes} free ports in a row on {HOST}")
