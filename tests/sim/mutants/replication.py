"""Mutants of log replication: what counts as committed, what a follower keeps, snapshots on their way."""

from __future__ import annotations

from .mutant import Change, Mutant

CORE, FOLLOWER, LEADER = "kvnode.protocol.raft.core", "kvnode.protocol.raft.follower", "kvnode.protocol.raft.leader"
LOG, SNAPSHOTS, REPLICA = "kvnode.protocol.raft.log", "kvnode.runtime.snapshots", "kvnode.shard.replica"

MUTANTS = (
    Mutant(
        "append-answered-before-sync",
        "A follower answers an append before its entries are on the disk (etcd issue 14143: committed writes lost with "
        "unsynced "
        "data).",
        ("crashes", "disks", "mixed"),
        (
            Change(
                "kvnode.runtime.driver",
                "        batch.answers.extend(ready.answers)\n",
                "        for answer in ready.answers:\n"
                '            if type(answer.message).__name__ == "ShardAppendResult":\n'
                "                deliver(answer.token, answer.message)\n"
                "            else:\n"
                "                batch.answers.append(answer)\n",
            ),
        ),
    ),
    Mutant(
        "own-log-not-durable",
        "A leader counts its own entries before they are on its disk.",
        ("disks", "crashes", "mixed"),
        (Change(LEADER, "reached_by_majority([r.log.stable, ", "reached_by_majority([r.log.last_index, "),),
    ),
    Mutant(
        "applied-before-durable-here",
        "An entry is applied, and its write answered, as soon as others hold it, before it is on this node's own disk.",
        ("disks", "crashes", "mixed"),
        (Change(CORE, "        return min(self.commit, self.log.stable)\n", "        return self.commit\n"),),
    ),
    Mutant(
        "old-term-committed",
        "An entry of an earlier term is committed because a majority holds it (Raft, figure 8).",
        ("crashes", "mixed", "partitions"),
        (Change(LEADER, "    if reached > r.commit and r.log.term(reached) == r.term:\n", "    if reached > r.commit:\n"),),
    ),
    Mutant(
        "previous-term-not-compared",
        "A follower checks that it has the previous entry, but not that entry's term.",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                FOLLOWER,
                "log.term(previous) == append.previous_term",
                "log.term(previous) is not None",
            ),
        ),
    ),
    Mutant(
        "truncated-by-any-append",
        "A late or repeated append removes what follows it, though nothing contradicts it (Raft, figure 2, rule 3 misread).",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                FOLLOWER,
                "            if log.term(index) == incoming[position].term:\n                continue\n",
                "            if index <= r.commit:\n                continue\n",
            ),
        ),
    ),
    Mutant(
        "conflict-not-truncated",
        "Entries that the leader's log contradicts are kept: only missing ones are appended (mofa issue 1150).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                FOLLOWER,
                "            if log.term(index) == incoming[position].term:\n                continue\n",
                "            if index <= log.last_index:\n                continue\n",
            ),
        ),
    ),
    Mutant(
        "heartbeat-commits-beyond-match",
        "A heartbeat's commit index is not bounded by what is known to match (etcd-io/raft pull request 139, ScyllaDB "
        "issue 9965, Copycat issue 265).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                CORE,
                "        follower.on_commit(self, min(lead.commit, lead.match))\n",
                "        follower.on_commit(self, lead.commit)\n",
            ),
        ),
    ),
    Mutant(
        "rejection-hint-taken-for-a-match",
        "The leader believes that logs match where a rejection's hint says they might (Ratis issue 2605 is of this kind).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                LEADER,
                "        progress.probe(min(index, result.index - 1) + 1 if result.index else 1)\n",
                "        progress.match = max(progress.match, min(result.hint_index, r.log.last_index))\n"
                "        progress.probe(min(index, result.index - 1) + 1 if result.index else 1)\n",
            ),
        ),
    ),
    Mutant(
        "old-terms-append-taken",
        "A follower takes appends of a leader that was deposed, as long as it does not lead itself.",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                CORE,
                "        if append.term < self.term:\n",
                "        if append.term < self.term and self.role is not Role.FOLLOWER:\n",
            ),
        ),
    ),
    Mutant(
        "snapshot-matches-too-much",
        "After a snapshot the leader goes on behind its own last entry, not behind the snapshot's.",
        ("crashes", "mixed", "partitions"),
        (
            Change(
                LEADER,
                "    if success:\n        progress.match = max(progress.match, index)\n",
                "    if success:\n        progress.match = max(progress.match, r.log.last_index)\n",
            ),
        ),
    ),
    Mutant(
        "entries-kept-behind-snapshot",
        "A snapshot that the log contradicts leaves the log's later entries in place (ScyllaDB issue 9965 discusses it).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                LOG,
                "        if self.term(index) == term:\n            self.stable = max(self.stable, index)\n",
                "        if self.term(index) is not None:\n            self.stable = max(self.stable, index)\n",
            ),
        ),
    ),
    Mutant(
        "snapshot-without-mark",
        "A snapshot leaves no mark in the log: a restart takes older entries for its past (ADR 5; RedisRaft issue 43).",
        ("crashes", "mixed", "partitions"),
        (
            Change(
                SNAPSHOTS,
                "                    if not replica.log_continues(request.last_index, request.last_term):\n",
                "                    if False:\n",
            ),
        ),
    ),
    Mutant(
        "snapshot-without-client-results",
        "A snapshot leaves out what clients' requests had come to: a retry is executed again.",
        ("mixed", "crashes", "transactions"),
        (Change(SNAPSHOTS, "if not row[0].startswith(LOCAL))", 'if not row[0].startswith((LOCAL, b"c")))'),),
    ),
    Mutant(
        "snapshot-without-votes",
        "A snapshot leaves out the transactions that the shard has voted for, and their locks.",
        ("transactions", "mixed", "crashes"),
        (Change(SNAPSHOTS, "if not row[0].startswith(LOCAL))", 'if not row[0].startswith((LOCAL, b"p")))'),),
    ),
    Mutant(
        "snapshot-drops-held-writes",
        "Installing a snapshot removes the eventual writes that this replica holds and nobody else may have.",
        ("mixed", "crashes", "partitions"),
        (
            Change(
                SNAPSHOTS,
                "self._store.replace(shard, LOCAL, rows)",
                'self._store.replace(shard, b"", rows)',
            ),
        ),
    ),
    Mutant(
        "deposed-leader-acknowledges",
        "A proposal is answered with the result of whatever entry took its place, though a later leader's entry did.",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                REPLICA,
                "            outcome = result if waiting.term == entry.term else self._no_leader()\n",
                "            outcome = result\n",
            ),
        ),
    ),
    Mutant(
        "deposed-leader-says-no",
        "A deposed leader calls what is in its log refused, though another replica may bring it back.",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                REPLICA,
                "            self._replies.append(Reply(waiting.token, self._unknown()))\n\n",
                "            self._replies.append(Reply(waiting.token, self._no_leader()))\n\n",
            ),
        ),
    ),
)
