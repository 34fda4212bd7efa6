"""`kvnode doctor`: which checks run, in which order, and what the command answers.

Owns the order: first what is on this host, while there is only one thread, since some checks fork to become the service's user;
then what waits, all at once and bounded; last the log, which a node that answered at its port has open.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvnode.config import Config
from kvnode.config_layers import ConfigError
from kvnode.doctor import report
from kvnode.doctor.asking import Answer, Silence, ask
from kvnode.doctor.contents import check_contents
from kvnode.doctor.finding import Finding, Level, attempt, skipped
from kvnode.doctor.kernel_clock import check_kernel_clock
from kvnode.doctor.peers import is_member, judge_peers
from kvnode.doctor.place import check_directory, check_file_system, check_space
from kvnode.doctor.ports import check_ports, reachable
from kvnode.doctor.resources import check_files, check_memory
from kvnode.doctor.settings import check_invalid, check_readable, check_settings
from kvnode.doctor.software import check_software
from kvnode.doctor.subject import Subject, look
from kvnode.doctor.sync_time import check_sync_time_bounded

HEALTHY, PROBLEMS, INTERRUPTED = 0, 1, 130


def examine(load: Callable[[], Config], config_path: str, uid: int | None, output: str) -> int:
    """Run all checks, print what they found, and answer the exit code: 1 if there are problems, 0 otherwise.

    `load` reads the configuration; `uid` is the user whom the node runs as, where the caller knows it; `output`: "table" or
    "json".
    """
    try:
        config = load()
    except ConfigError as error:
        findings = [*check_invalid(error), skipped("all else", "needs a configuration that can be used")]
        return _answer(findings, output, {"config": config_path}, config_path or "the configuration")
    subject = look(config, config_path, uid)
    try:
        findings = check(subject)
    except KeyboardInterrupt:
        return INTERRUPTED
    about = {"node": config.node.name, "cluster": config.cluster.id, "config": config_path, "user": subject.user}
    return _answer(findings, output, about, config.node.name)


def check(subject: Subject) -> list[Finding]:
    """Everything there is to look at, in the order in which it is read best."""
    config = subject.config
    here = [
        *check_settings(config, subject.config_path),
        *attempt("configuration", check_readable, subject),
        *attempt("data directory", check_directory, subject),
        *attempt("disk space", check_space, subject),
        *attempt("file system", check_file_system, subject),
    ]
    own, others, sync_time = asyncio.run(_wait(subject))
    is_running = bool(subject.pid) or is_member(config, config.node.name, own)
    return [
        *here,
        *attempt("data format", check_contents, subject, is_running),
        *sync_time,
        *others,
        *check_kernel_clock(config.clock.max_clock_skew_ms),
        *attempt("open files", check_files, subject),
        *attempt("memory", check_memory, subject),
        *attempt("software", check_software, config.node.transport),
    ]


async def _wait(subject: Subject) -> tuple[Answer | Silence, list[Finding], list[Finding]]:
    """What is said at the node's own port; what others have to answer; how fast the disk is. All at once."""
    config = subject.config
    asked = {**config.cluster.members, config.node.name: reachable(config.node.listen)}
    with _progress(f"asking {len(asked) - 1} peers, timing the disk …"):
        timed = asyncio.create_task(check_sync_time_bounded(subject))
        answers = await asyncio.gather(*(ask(address, config.node.transport) for address in asked.values()))
        named = dict(zip(asked, answers, strict=True))
        own = named.pop(config.node.name)
        others = [*await check_ports(subject, own), *judge_peers(config, named)]
        return own, others, await timed


@contextmanager
def _progress(words: str) -> Iterator[None]:
    """Says on a terminal what is being waited for."""
    if not sys.stderr.isatty():
        yield
        return
    print(words, end="", flush=True, file=sys.stderr)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", flush=True, file=sys.stderr)


def _answer(findings: list[Finding], output: str, about: dict[str, str], subject: str) -> int:
    if output == "json":
        print(report.as_json(findings, **about))
    else:
        report.show(findings, subject, sys.stdout)
    return PROBLEMS if any(finding.level is Level.PROBLEM for finding in findings) else HEALTHY
