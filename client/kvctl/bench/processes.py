"""The processes of a run, as their starter sees them.

Owns their start, their phases in step, and their end: none outlives the run. One process of Python fills one core; more of them
share the rate, the callers, the operations and the keys.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from kvctl.bench.plan import Plan
from kvctl.bench.samples import Failed, Message, Ready
from kvctl.bench.worker import Go, Stop, work
from kvctl.failures import ExitCode, Failure, by_reason

BEGIN_IN_S = 0.05
"""From the order to begin to the beginning: every process has heard of it by then."""
TICK_S = 0.25
END_S_MAX = 5.0


class Processes:
    """Starts them; use it with `with`."""

    def __init__(self, plan: Plan) -> None:
        context = get_context("spawn")  # never a copy of this process, which has threads
        self._ends: dict[Connection[Any, Any], int] = {}
        self._processes = []
        self.is_interrupted = self._stop_sent = False
        with _interrupts(signal.SIG_IGN):  # Ctrl-C goes to all processes of a terminal; this one tells the others
            for index in range(plan.processes):
                mine, theirs = context.Pipe()
                process = context.Process(target=work, args=(plan, index, theirs), daemon=True, name=f"kvctl bench {index}")
                process.start()
                theirs.close()
                self._ends[mine] = index
                self._processes.append(process)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for end in self._ends:
            end.close()  # which tells them to go
        for process in self._processes:
            process.join(END_S_MAX if error is None else 0.0)
            if process.is_alive():
                process.kill()
                process.join()

    def connect(self) -> None:
        """Wait until all have connected. Raises the failure of one that cannot."""
        self._wait_ready(lambda index, message: None, lambda: None)

    def run(
        self, on_message: Callable[[int, Message], None], on_tick: Callable[[], None], *, may_end_early: bool = False
    ) -> None:
        """Begin a phase, and take what the processes say until all are ready for the next one. `on_tick` is called regularly.

        Ctrl-C raises KeyboardInterrupt; with `may_end_early` the first one ends the phase in an orderly way, and is remembered
        as `is_interrupted`. Raises the failure of a process that cannot go on.
        """
        self._tell_all(Go(time.monotonic() + BEGIN_IN_S))
        if not may_end_early:
            self._wait_ready(on_message, on_tick)
            return
        with _interrupts(self._interrupt):
            self._wait_ready(on_message, on_tick)

    def _wait_ready(self, on_message: Callable[[int, Message], None], on_tick: Callable[[], None]) -> None:
        busy, next_tick = set(self._ends), 0.0
        while busy:
            for end in wait(list(busy), TICK_S):
                assert isinstance(end, Connection)
                message = _receive(end)
                if isinstance(message, Ready):
                    busy.discard(end)
                else:
                    on_message(self._ends[end], message)
            if (now := time.monotonic()) >= next_tick:
                on_tick()
                next_tick = now + TICK_S / 2
            if self.is_interrupted and not self._stop_sent:
                self._stop_sent = True
                self._tell_all(Stop())

    def _tell_all(self, order: Go | Stop) -> None:
        for end in self._ends:
            try:
                end.send(order)
            except OSError:
                raise _died() from None

    def _interrupt(self, *_: object) -> None:
        """Ctrl-C. It only notes it, so that no message is torn in the middle."""
        if self.is_interrupted:
            raise KeyboardInterrupt
        self.is_interrupted = True


def _receive(end: Connection[Any, Any]) -> Message:
    try:
        message: Message = end.recv()
    except (EOFError, OSError):
        raise _died() from None
    if isinstance(message, Failed):
        if not message.reason:
            raise RuntimeError(f"a process of the load generator failed\n{message.message}")
        raise by_reason(message.reason, message.message.rstrip("."))
    return message


def _died() -> Failure:
    hint = "is there enough memory? See the kernel's log"
    return Failure(ExitCode.INTERNAL, "GENERATOR_DIED", "a process of the load generator died", hint)


@contextmanager
def _interrupts(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    """Do something else at Ctrl-C for a while."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
