"""Mutants of elections and of reads: votes, terms, who leads, and what a leader may answer alone."""

from __future__ import annotations

from .mutant import Change, Mutant

CANDIDATE, CORE, LEADER = "kvnode.protocol.raft.candidate", "kvnode.protocol.raft.core", "kvnode.protocol.raft.leader"

MUTANTS = (
    Mutant(
        "vote-before-sync",
        "A vote is answered before it is on the disk: after a crash the node votes again in the same term (Raft, figure 2).",
        ("crashes", "disks", "mixed"),
        (
            Change(
                "kvnode.runtime.driver",
                "        batch.answers.extend(ready.answers)\n",
                "        for answer in ready.answers:\n"
                '            if type(answer.message).__name__ == "RequestVoteResponse":\n'
                "                deliver(answer.token, answer.message)\n"
                "            else:\n"
                "                batch.answers.append(answer)\n",
            ),
        ),
    ),
    Mutant(
        "repeated-vote-overtakes-write",
        "An answer that needs no record of its own does not wait for the earlier write that it rests on: a repeated vote "
        "leaves "
        "while the first is being synced.",
        ("mixed", "disks", "crashes", "partitions"),
        (
            Change(
                "kvnode.runtime.driver",
                "        if self._writing is not None:\n            return\n"
                "        batch, self._next = self._next, LogBatch()\n",
                "        if self._writing is not None:\n"
                "            if not self._next.records:\n"
                "                answers, self._next.answers = self._next.answers, []\n"
                "                for answer in answers:\n"
                "                    deliver(answer.token, answer.message)\n"
                "            return\n"
                "        batch, self._next = self._next, LogBatch()\n",
            ),
        ),
    ),
    Mutant(
        "own-vote-not-durable",
        "A candidate counts its own vote before it is on the disk (the answer to others waits, the own one is forgotten).",
        ("crashes", "disks", "mixed"),
        (Change(CANDIDATE, "r.role is Role.CANDIDATE and r.term_durable:", "r.role is Role.CANDIDATE:"),),
    ),
    Mutant(
        "vote-twice-in-a-term",
        "A voter does not look whether it has voted in this term already.",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                CANDIDATE,
                'up_to_date and r.vote in ("", candidate) and candidate in r.voters',
                "up_to_date and candidate in r.voters",
            ),
        ),
    ),
    Mutant(
        "vote-forgotten-in-same-term",
        "The vote is reset although the term stays (etcd pull request 2461: do not reset vote if term is not changed).",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                CORE,
                '        if term > self.term:\n            self.term, self.vote = term, ""\n',
                '        self.term, self.vote = term, ""\n',
            ),
        ),
    ),
    Mutant(
        "vote-for-a-shorter-log",
        "Votes are granted whatever the candidate's log holds: a leader without committed entries (Raft, section 5.4.1 left "
        "out).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                CANDIDATE,
                "    up_to_date = r.log.is_up_to_date(request.last_log_index, request.last_log_term)\n",
                "    up_to_date = True\n",
            ),
        ),
    ),
    Mutant(
        "up-to-date-by-length",
        "Logs are compared by their length alone, not by the last entry's term first: the longer log of an old leader wins.",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                "kvnode.protocol.raft.log",
                "return (last_term, last_index) >= (self.last_term, self.last_index)",
                "return last_index >= self.last_index",
            ),
        ),
    ),
    Mutant(
        "pre-vote-counted-as-vote",
        "Promises of the pre-vote that come late are counted as votes of the election that follows.",
        ("partitions", "mixed", "crashes"),
        (
            Change(
                CANDIDATE,
                "    if r.role is not role or voter not in r.voters or (answer.granted and answer.term != asked):\n",
                "    if r.role in (Role.FOLLOWER, Role.LEADER) or voter not in r.voters:\n",
            ),
        ),
    ),
    Mutant(
        "term-not-persisted",
        "Only votes are written, not terms that come without one (NodeDB issue 161: the hard state is never persisted).",
        ("crashes", "partitions", "mixed"),
        (
            Change(
                CORE,
                "        if (self.term, self.vote) == self._hard_state_saved[:2]:\n",
                "        if self.vote == self._hard_state_saved[1]:\n",
            ),
        ),
    ),
    Mutant(
        "vote-not-persisted",
        "The hard state is written when the term changes, and not for a vote in a term that is known already (xraft issue 29).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                CORE,
                "        if (self.term, self.vote) == self._hard_state_saved[:2]:\n",
                "        if self.term == self._hard_state_saved[0]:\n",
            ),
        ),
    ),
    Mutant(
        "lost-disk-may-vote",
        "A node that comes back with an empty disk is taken for the one it was, and votes again (Raft needs stable storage).",
        ("lost-disk",),
        (
            Change(
                "kvnode.runtime.envelope",
                "        elif known != envelope.from_uid:\n",
                "        elif known != envelope.from_uid and self.peer_uids.update({sender: envelope.from_uid}):\n",
            ),
        ),
    ),
    Mutant(
        "read-index-without-commit-in-term",
        "A new leader serves read indexes before it has committed in its term (etcd issue 7331, TiKV pull request 9239).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                LEADER,
                "PendingRead(token, r.commit if has_committed_in_term(r) else None)",
                "PendingRead(token, r.commit)",
            ),
            Change(LEADER, "    if not r.reads or not has_committed_in_term(r):\n", "    if not r.reads:\n"),
        ),
    ),
    Mutant(
        "read-round-began-before",
        "A read is confirmed by a heartbeat that was sent before it arrived (etcd issue 20418: stale reads by paused "
        "processes).",
        ("mixed", "crashes", "partitions"),
        (
            Change(
                LEADER,
                "        if r.progress and (read.round is None or read.round > confirmed):\n",
                "        if r.progress and read.round is not None and read.round > confirmed:\n",
            ),
        ),
    ),
    Mutant(
        "read-without-quorum",
        "A leader answers strong reads without asking anybody whether it still leads (etcd 0.4 and Consul 0.5, Jepsen 2014).",
        ("partitions", "crashes", "mixed"),
        (
            Change(
                LEADER,
                "    if holds_lease(r, now) and has_committed_in_term(r):\n",
                "    if has_committed_in_term(r):\n",
            ),
        ),
    ),
    Mutant(
        "read-before-apply",
        "A follower serves a strong read before it has applied up to the read index (etcd issue 13464 asks about it).",
        ("calm", "partitions", "mixed"),
        (
            Change(
                "kvnode.routing.local",
                "            replica.waits.for_applied(index, future)\n",
                "            future.set_result(index)\n",
            ),
        ),
    ),
    Mutant(
        "lease-outlives-the-transfer",
        "A leader keeps its lease while it hands over, though voters follow who campaigns on its word (TiKV issue 1593).",
        ("leases",),
        (
            Change(
                LEADER,
                "    if not r.settings.leader_lease or r.transfer is not None or r.successor_told:\n",
                "    if not r.settings.leader_lease:\n",
            ),
        ),
    ),
    Mutant(
        "lease-counted-from-the-answer",
        "A lease begins when the follower's answer arrives, not when the heartbeat was sent: a slow network makes it too long.",
        ("leases",),
        (
            Change(
                LEADER,
                "    progress.acked_at = max(progress.acked_at, sent_at)\n",
                "    progress.acked_at = max(progress.acked_at, now)\n",
            ),
        ),
    ),
    Mutant(
        "disloyal-voters",
        "Voters that hear their leader vote for others all the same, while leases count on their loyalty (Raft, section "
        "6.4.1).",
        ("partitions", "mixed"),
        (
            Change(
                CANDIDATE,
                "    loyal = r.hears_leader(now) and not request.leadership_transfer\n",
                "    loyal = False\n",
            ),
            Change(
                CORE,
                "        self.deadline = now + settings.election_timeout_min * (1 + settings.clock_drift_max) + ",
                "        self.deadline = now + settings.election_timeout_min / 4 + ",
            ),
        ),
    ),
)
