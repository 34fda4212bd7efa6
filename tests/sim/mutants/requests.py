"""Mutants of requests on their way: retries, forwarding, and what a client is told."""

from __future__ import annotations

from .mutant import Change, Mutant

SESSIONS, MACHINE, LOCAL = "kvnode.shard.client_sessions", "kvnode.shard.state_machine", "kvnode.routing.local"

MUTANTS = (
    Mutant(
        "requests-not-remembered",
        "What a named request came to is not looked up: a retry executes it again.",
        ("partitions", "transactions", "mixed"),
        (
            Change(
                SESSIONS,
                "        if result is not None:\n            return result\n",
                "        if result is not None:\n            return None\n",
            ),
        ),
    ),
    Mutant(
        "request-name-lost-when-forwarded",
        "A request that was forwarded to the leader is executed without its name: the retry elsewhere runs it again.",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                "kvnode.routing.router",
                '        if request.HasField("request"):\n            command.request.CopyFrom(request.request)\n',
                '        if request.HasField("request") and not context.hops:\n'
                "            command.request.CopyFrom(request.request)\n",
            ),
        ),
    ),
    Mutant(
        "forgotten-requests-run-again",
        "A request below those that its session has forgotten is taken for a new one.",
        ("transactions", "mixed", "partitions"),
        (
            Change(
                SESSIONS,
                "        if request.sequence > session.forgotten and session.after < request.started <= latest:\n",
                "        if session.after < request.started <= latest:\n",
            ),
        ),
    ),
    Mutant(
        "sessions-forgotten-without-horizon",
        "A client that is forgotten, for there are too many, leaves nothing behind: its late requests run again.",
        ("transactions", "mixed", "partitions"),
        (
            Change(
                SESSIONS,
                "        self.horizon = max(self.horizon, session.active_at)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "sessions-expire-by-local-clock",
        "Each replica decides by its own clock, not by the entry's stamp, whom it forgets.",
        ("transactions", "mixed", "clocks"),
        (
            Change(SESSIONS, "from collections import OrderedDict\n", "import asyncio\nfrom collections import OrderedDict\n"),
            Change(
                SESSIONS,
                "        self.time = max(self.time, now)\n",
                "        local = int((1_700_000_000 + asyncio.get_running_loop().time()) * 1000) << 16\n"
                "        self.time = max(self.time, now, local)\n",
            ),
        ),
    ),
    Mutant(
        "timeout-called-failure",
        "A write whose time is nearly over, with its entry in the log, is given up so that the word arrives in time, and is "
        "called refused.",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                LOCAL,
                "        timer = self._loop.call_at(context.deadline, _expire, future, late)\n",
                "        early = min(0.1, 0.1 * (context.deadline - self._loop.time()))\n"
                "        timer = self._loop.call_at(context.deadline - early, _expire, future, late)\n",
            ),
            Change(
                LOCAL,
                '        return OutcomeUnknown(\n            f"shard {shard}: the deadline passed with the write in the log of',
                "        return DeadlineExpired(\n"
                '            f"shard {shard}: the deadline passed with the write in the log of',
            ),
        ),
    ),
    Mutant(
        "lost-forward-called-failure",
        "A write that was forwarded to a node that was lost then is called refused.",
        ("crashes", "partitions", "mixed"),
        (Change("kvnode.routing.router", "            if is_write and not error.refused:\n", "            if False:\n"),),
    ),
    Mutant(
        "forwarded-write-sent-again",
        "A node that forwarded a write and lost the other node sends it once more: it may be executed twice.",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                "kvnode.routing.router",
                "            if is_write and not error.refused:\n",
                "            again = self.leader_of(self.map.shard_of(getattr(request, 'key', b''))) or to\n"
                "            if again != self.me and context.deadline > self._loop.time():\n"
                "                left = context.deadline - self._loop.time()\n"
                "                try:\n"
                "                    return await self._transport.forward(again, request, left, context.hops + 1)\n"
                "                except PeerUnreachable as second:\n"
                "                    error = second\n"
                "            if is_write and not error.refused:\n",
            ),
        ),
    ),
    Mutant(
        "compare-ignores-the-revision",
        "A compare-and-set only looks whether the key exists (a lost update).",
        ("calm", "mixed"),
        (
            Change(
                MACHINE,
                "        if expected is not None and actual != expected:\n",
                "        if expected is not None and bool(actual) != bool(expected):\n",
            ),
        ),
    ),
)
