"""Mutants of transactions: locks, votes, decisions, and what ends a transaction whose coordinator has died."""

from __future__ import annotations

from .mutant import Change, Mutant

TRANSACTIONS, EVALUATE = "kvnode.shard.transactions", "kvnode.shard.evaluate"
COORDINATORS, PARTICIPANTS, RECOVERY = "kvnode.routing.coordinators", "kvnode.routing.participants", "kvnode.routing.recovery"
LOCKS, PROTOCOL = "kvnode.routing.locks", "kvnode.protocol.two_phase_commit"

MUTANTS = (
    Mutant(
        "abort-without-tombstone",
        "An abort of a transaction that the anchor has not heard of leaves no trace: a vote that comes late makes it commit "
        "(TiKV "
        "issues 1649 and 7364).",
        ("transactions", "mixed"),
        (
            Change(
                TRANSACTIONS,
                "        return self._remember(txn, end), prepared\n",
                "        return (end if prepared is None else self._remember(txn, end)), prepared\n",
            ),
        ),
    ),
    Mutant(
        "last-decision-wins",
        "A push writes ABORT into the anchor's log also behind a COMMIT, and the later record counts.",
        ("transactions", "mixed"),
        (
            Change(
                f"{PROTOCOL}.participant",
                "    (State.COMMITTED, Event.ABORT): State.COMMITTED,\n",
                "    (State.COMMITTED, Event.ABORT): State.ABORTED,\n",
            ),
            Change(PARTICIPANTS, "        if request.push and end is None:\n", "        if request.push:\n"),
        ),
    ),
    Mutant(
        "abort-when-in-doubt",
        "A coordinator that gets no answer from the anchor aborts, though COMMIT may be in its log (CockroachDB's ambiguous "
        "results are about this).",
        ("transactions", "mixed", "partitions"),
        (
            Change(
                "kvnode.routing.shard_leaders",
                "                raise (InDoubt if in_doubt else NotAsked)(",
                "                raise NotAsked(",
            ),
        ),
    ),
    Mutant(
        "commit-forgotten-at-once",
        "The anchor does not remember that it has committed a transaction: who asks later has it aborted (CockroachDB issue "
        "104309: a record that was collected is taken for an abort).",
        ("transactions", "places"),
        (
            Change(
                TRANSACTIONS,
                "        return self._remember(txn, end), prepared\n",
                "        return (end if end.committed else self._remember(txn, end)), prepared\n",
            ),
        ),
    ),
    Mutant(
        "shared-locks-not-taken",
        "Keys that a transaction reads are not locked until its end: write skew (CockroachDB issue 7899).",
        ("transactions", "calm"),
        (
            Change(
                EVALUATE,
                "    return Locks(tuple(writes), tuple(key for key in reads if key not in writes), tuple(ranges))\n",
                "    return Locks(tuple(writes), (), tuple(ranges))\n",
            ),
        ),
    ),
    Mutant(
        "compared-keys-not-locked",
        "Keys that are only compared are not locked: a comparison holds at the vote, and not at the end.",
        ("transactions", "calm"),
        (
            Change(
                EVALUATE,
                "    reads: dict[bytes, None] = {compare.key: None for compare in part.compare}\n",
                "    reads: dict[bytes, None] = {}\n",
            ),
        ),
    ),
    Mutant(
        "range-locks-not-taken",
        "A range that a transaction reads is not locked: phantoms (SurrealKV issue 28).",
        ("transactions", "calm"),
        (
            Change(
                EVALUATE,
                "    return Locks(tuple(writes), tuple(key for key in reads if key not in writes), tuple(ranges))\n",
                "    return Locks(tuple(writes), tuple(key for key in reads if key not in writes), ())\n",
            ),
        ),
    ),
    Mutant(
        "torn-reads-over-shards",
        "A read over several shards takes its first collection, which is no state of one moment (YugabyteDB, Jepsen 2019, read "
        "skew).",
        ("transactions", "calm"),
        (
            Change(
                COORDINATORS,
                "            if before and all(found[shard].fingerprint == before[shard].fingerprint for shard in found):\n",
                "            if True:\n",
            ),
        ),
    ),
    Mutant(
        "reads-pass-locks",
        "A strong read does not wait for transactions that may be committed already.",
        ("transactions", "calm"),
        (
            Change(
                LOCKS,
                "        return tuple(txn for txn in writers if transactions.prepared[txn].index <= index)\n",
                "        return ()\n",
            ),
        ),
    ),
    Mutant(
        "strong-writes-pass-locks",
        "A strong write of one key does not look at locks.",
        ("transactions", "calm"),
        (
            Change(
                "kvnode.shard.state_machine",
                "        locked = self._locked(Locks(writes=(key,)))\n",
                "        locked = self._locked(Locks())\n",
            ),
            Change(
                "kvnode.routing.router",
                "await self.local.execute(replica, command, Locks(writes=(request.key,)), context)",
                "await self.local.execute(replica, command, Locks(), context)",
            ),
        ),
    ),
    Mutant(
        "decision-told-before-durable",
        "The coordinator tells the participants to commit before the anchor's log has said so.",
        ("transactions", "mixed"),
        (
            Change(
                COORDINATORS,
                "        machine = self.machine\n        try:\n",
                "        machine = self.machine\n"
                "        for shard in machine.participants:\n"
                "            if shard != machine.anchor:\n"
                "                early = Resolve(shard, True, decide.succeeded, self._coordinators._clock())\n"
                '                self._coordinators._spawn(self._coordinators._resolve(machine, early, 5.0), "early")\n'
                "        try:\n",
            ),
        ),
    ),
    Mutant(
        "acknowledged-at-the-votes",
        "The client is told of the commit when all have voted, before the anchor's log has decided.",
        ("transactions", "mixed"),
        (
            Change(
                COORDINATORS,
                "        machine = self.machine\n        try:\n"
                '            with self._context.timeline.aside("decide", {"kvnode.shard": self._parts.anchor}):\n'
                "                answer = await self._leaders.ask(self._parts.anchor, request, self._context.deadline)\n",
                "        machine = self.machine\n"
                "        until = self._context.deadline\n"
                '        self._coordinators._spawn(self._leaders.ask(self._parts.anchor, request, until), "decide later")\n'
                "        try:\n"
                "            answer = two_phase_commit_pb2.DecideResponse(state=COMMITTED, succeeded=decide.succeeded)\n"
                "            answer.committed_at = self._coordinators._clock()\n"
                "            answer.served.CopyFrom(self._votes[self._parts.anchor].served)\n",
            ),
        ),
    ),
    Mutant(
        "push-without-asking",
        "Who has waited for a decision for too long aborts by himself, without asking the anchor (two-phase commit's oldest "
        "bug).",
        ("transactions", "mixed"),
        (
            Change(
                RECOVERY,
                "        status = await self._leaders.ask(anchor, request, self._loop.time() + ASK_WITHIN)\n",
                "        status = two_phase_commit_pb2.TransactionStatusResponse()\n",
            ),
        ),
    ),
    Mutant(
        "orphans-not-ended",
        "Nobody ends a transaction whose coordinator has died: its locks stay for ever.",
        ("transactions", "mixed"),
        (
            Change(
                RECOVERY,
                "                if now - since >= self._push_after:\n                    self.push(shard, txn)\n",
                "                if now - since >= self._push_after:\n                    pass\n",
            ),
        ),
    ),
    Mutant(
        "ended-transactions-without-horizon",
        "How a transaction ended is forgotten, for there are too many, and with it that it had begun: a vote that comes late "
        "locks "
        "for ever, or commits.",
        ("transactions", "places"),
        (
            Change(
                TRANSACTIONS,
                "            self.horizon = max(self.horizon, forgotten.start)\n",
                "",
            ),
            # (What is remembered of ended transactions is made little, so that it is soon forgotten.)
            Change("kvnode.limits", "TRANSACTIONS_ENDED_PER_SHARD_MAX = 16_384\n", "TRANSACTIONS_ENDED_PER_SHARD_MAX = 0\n"),
        ),
    ),
    Mutant(
        "vote-without-the-others",
        "A coordinator decides when a majority of the shards has voted (a quorum where all must agree).",
        ("transactions", "calm"),
        (
            Change(
                f"{PROTOCOL}.coordinator",
                "        if len(self._matched) < len(self.participants):\n",
                "        if len(self._matched) < len(self.participants) // 2 + 1:\n",
            ),
        ),
    ),
    Mutant(
        "locks-released-by-restart",
        "The locks of transactions that were voted for are not taken again after a restart.",
        ("transactions", "mixed"),
        (
            Change(
                TRANSACTIONS,
                "            self._hold(txn_of(one.command.transaction), held, locks_of(one.command.part))\n",
                "            self._hold(txn_of(one.command.transaction), held, Locks())\n",
            ),
        ),
    ),
    Mutant(
        "revision-of-the-decision",
        "A transaction's writes take the place of the decision for that of the vote, where eventual writes are concerned: "
        "those "
        "that came between are undone or undo.",
        ("transactions", "mixed"),
        (
            Change(
                "kvnode.shard.state_machine",
                "prepared.index, index, end.committed_at)",
                "prepared.index, prepared.index, end.committed_at)",
            ),
        ),
    ),
)
