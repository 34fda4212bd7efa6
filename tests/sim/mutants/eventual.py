"""Mutants of eventual writes: who holds them, how they find their place, and what they may replace."""

from __future__ import annotations

from .mutant import Change, Mutant

HOLDER, MACHINE, VERDICT = "kvnode.protocol.eventual.holder", "kvnode.shard.state_machine", "kvnode.protocol.eventual.verdict"

MUTANTS = (
    Mutant(
        "eventual-acknowledged-before-sync",
        "An eventual write is acknowledged before it is on the disk of the node that took it.",
        ("disks", "crashes", "mixed"),
        (
            Change(
                "kvnode.runtime.driver",
                "        batch.accepted.extend(ready.accepted)\n",
                "        for reply in ready.accepted:\n            deliver(reply.token, reply.result)\n",
            ),
        ),
    ),
    Mutant(
        "held-before-sync",
        "A replica says that it holds an eventual write before that is on its disk.",
        ("disks", "crashes", "mixed"),
        (
            Change(
                "kvnode.runtime.driver",
                "        batch.answers.extend(ready.answers)\n",
                "        for answer in ready.answers:\n"
                '            if type(answer.message).__name__ == "EventualHeld":\n'
                "                deliver(answer.token, answer.message)\n"
                "            else:\n"
                "                batch.answers.append(answer)\n",
            ),
        ),
    ),
    Mutant(
        "held-by-hearsay",
        "A replica counts as held what a peer says has its place in the log, before it has applied that itself.",
        ("mixed", "partitions", "crashes"),
        (
            Change(
                HOLDER,
                '        """Everything of the origin up to this is held or applied here."""\n'
                "        queue = self._queues.get(origin)\n"
                "        return queue.proven if queue else 0\n",
                '        """Everything of the origin up to this is held or applied here."""\n'
                "        queue = self._queues.get(origin)\n"
                "        return queue.held if queue else 0\n",
            ),
        ),
    ),
    Mutant(
        "acknowledgements-of-other-lives",
        "Acknowledgements are counted by sequence number alone: those of an earlier life of the node count for this one.",
        ("crashes", "mixed"),
        (
            Change(
                HOLDER,
                "if origin == self.me and held >= sequence)",
                "if held >= sequence)",
            ),
        ),
    ),
    Mutant(
        "dropped-on-the-leaders-word",
        "A node drops its eventual write as soon as the leader holds it, before it has applied it: its reads lose it for a "
        "while.",
        ("calm", "mixed", "partitions"),
        (
            Change(
                "kvnode.runtime.peers",
                "            self.on_held(held.shard)\n        return advanced\n",
                "            if self._replicas[held.shard].raft.leader == self.peer:\n"
                "                holder.on_sequenced(Origin(held.node, held.incarnation), held.held)\n"
                "            self.on_held(held.shard)\n"
                "        return advanced\n",
            ),
        ),
    ),
    Mutant(
        "superseded-not-remembered",
        "An eventual write that loses disappears without a word: acknowledged, and neither applied nor superseded (Riak and "
        "Cassandra, Jepsen 2013).",
        ("calm", "mixed"),
        (
            Change(
                MACHINE,
                "            self._remember_superseded(SupersededRecord(origin, write.sequence, write.key, index, lost, "
                "hlc))\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "unseen-strong-write-undone",
        "An eventual write replaces a strong one that it had not seen, when its clock is later.",
        ("calm", "clocks", "mixed"),
        (Change(VERDICT, "    if current.strong_index > base:\n", "    if False:\n"),),
    ),
    Mutant(
        "collected-deletion-undone",
        "An eventual write from before a deletion that was forgotten brings the key back (Cassandra's and ScyllaDB's zombies).",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                VERDICT,
                "        return Superseded(HORIZON, 0) if base < horizon else None\n",
                "        return None\n",
            ),
            Change(
                "kvnode.shard.replica",
                "        up_to = min([self.holder.own_floor(self.applied), self.machine.waiting.floor(self.applied), "
                "*floors])\n",
                "        up_to = self.applied\n",
            ),
        ),
    ),
    Mutant(
        "stamps-compared-by-milliseconds",
        "Stamps lose their precision on the way, and of two in one millisecond the later arrival wins (gocql issue 800).",
        ("calm", "mixed", "clocks"),
        (Change(VERDICT, "    if stamp < current.stamp:\n", "    if stamp.hlc >> 16 < current.stamp.hlc >> 16:\n"),),
    ),
    Mutant(
        "earlier-write-wins",
        "Of two eventual writes the last one in the log wins, whatever their clocks say: no last writer wins.",
        ("calm", "mixed"),
        (Change(VERDICT, "    if stamp < current.stamp:\n", "    if False:\n"),),
    ),
    Mutant(
        "eventual-write-applied-twice",
        "The state machine does not look whether a write has its place already, and a new leader proposes again what the log "
        "holds.",
        ("mixed", "partitions", "crashes"),
        (
            Change(
                MACHINE,
                "        if write.sequence < expected:\n            return origin, write.sequence\n",
                "",
            ),
            Change(
                MACHINE,
                '        invariant(write.sequence == expected, f"eventual write {origin} {write.sequence} where {expected} '
                'was due")\n'
                "        self.sequenced[origin] = write.sequence\n",
                "        self.sequenced[origin] = max(expected - 1, write.sequence)\n",
            ),
            Change(
                "kvnode.shard.replica",
                "            if led_term:\n",
                "            if led_term:\n                self.holder.on_become_leader()\n"
                "                self._sequencing = True\n",
            ),
        ),
    ),
    Mutant(
        "eventual-writes-pass-locks",
        "An eventual write takes effect on a key that a transaction has locked.",
        ("transactions", "mixed"),
        (
            Change(
                MACHINE,
                "        if self.transactions.locks.is_locked(write.key):\n",
                "        if False:\n",
            ),
        ),
    ),
    Mutant(
        "eventual-writes-pass-read-locks",
        "An eventual write waits for a transaction that writes its key, and not for one that has read it.",
        ("transactions", "mixed"),
        (
            Change(
                MACHINE,
                "        if self.transactions.locks.is_locked(write.key):\n",
                "        if self.transactions.locks.writer(write.key) is not None:\n",
            ),
        ),
    ),
    Mutant(
        "session-token-ignored",
        "Any replica serves a session's read, whatever the session has seen (MongoDB's causal sessions, Jepsen 2018).",
        ("calm", "partitions", "mixed"),
        (
            Change(
                "kvnode.routing.session",
                "    if seen is None:\n        return True\n    if replica.applied",
                "    if seen is None or replica.applied >= 0:\n        return True\n    if replica.applied",
            ),
        ),
    ),
)
