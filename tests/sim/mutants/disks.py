"""Mutants of the log, the store and the clock's bound: what a restart finds."""

from __future__ import annotations

from .mutant import Change, Mutant

LOG, FLUSHER, RECOVERY = "kvnode.storage.log", "kvnode.runtime.flusher", "kvnode.runtime.recovery"

MUTANTS = (
    Mutant(
        "log-not-synced",
        "The log is written and not synced (Redis-like appendfsync; etcd issue 14143 shows what follows).",
        ("crashes", "mixed"),
        (
            Change(
                LOG,
                "        synced_from = self._clock()\n        self._disk.sync(name)\n",
                "        synced_from = self._clock()\n",
            ),
        ),
    ),
    Mutant(
        "sync-error-ignored",
        "A failed sync is taken for a good one (PostgreSQL's fsync error of 2018).",
        ("disks", "mixed"),
        (
            Change(
                LOG,
                "        synced_from = self._clock()\n        self._disk.sync(name)\n",
                "        synced_from = self._clock()\n"
                "        try:\n"
                "            self._disk.sync(name)\n"
                "        except Exception:\n"
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "segment-renamed-without-directory-sync",
        "A new segment's name is not synced: a power failure takes the whole file away (etcd issue 6368, braft issue 254).",
        ("crashes", "mixed"),
        (
            Change(
                LOG,
                "        self._disk.rename(SPARE_NAME, segment.name)\n        self._disk.sync_directory()\n",
                "        self._disk.rename(SPARE_NAME, segment.name)\n",
            ),
        ),
    ),
    Mutant(
        "recovered-tail-not-synced",
        "What a restart finds in the page cache after a failed sync is believed to be on the disk; then the power fails.",
        ("mixed", "damage"),
        (
            Change(
                LOG,
                "            self._disk.write(segment.name, end, bytes(written_end - end))\n"
                "        self._disk.sync(segment.name)\n",
                "            self._disk.write(segment.name, end, bytes(written_end - end))\n",
            ),
            Change(LOG, "        if end > tail > 0:\n", "        if False:\n"),
        ),
    ),
    Mutant(
        "segment-carries-old-terms",
        "A new segment begins with the first hard state that was ever seen, behind the latest (kept records are never "
        "renewed).",
        ("crashes", "mixed", "partitions"),
        (
            Change(
                LOG,
                "                self._hard_states[record.shard] = record\n",
                "                self._hard_states.setdefault(record.shard, record)\n",
            ),
        ),
    ),
    Mutant(
        "log-cut-before-flush",
        "The log is cut before the store's transaction that makes it superfluous.",
        ("disks", "places", "mixed"),
        (
            Change(
                FLUSHER,
                "            try:\n                await self._store_worker.submit(self._store.commit, rows)\n",
                "            try:\n"
                "                await self._log_worker.submit(self._log.cut, flushed, segment + 1)\n"
                "                await self._store_worker.submit(self._store.commit, rows)\n",
            ),
        ),
    ),
    Mutant(
        "log-cut-to-its-end",
        "The log is cut up to its last entry, not up to what was flushed: what is durable and not applied yet is gone.",
        ("mixed", "places", "crashes"),
        (
            Change(
                FLUSHER,
                "            cut = await self._log_worker.submit(self._log.cut, flushed, segment)\n",
                "            flushed = {shard: replica.raft.log.last_index for shard, replica in self._replicas.items()}\n"
                "            cut = await self._log_worker.submit(self._log.cut, flushed, self._log.active_segment)\n",
            ),
        ),
    ),
    Mutant(
        "rows-flushed-without-their-index",
        "Rows and applied index reach the store in different transactions (etcd 3.5's data inconsistency, postmortem of 2022).",
        ("crashes", "mixed"),
        (
            Change(
                FLUSHER,
                "            flushed = {shard: replica.before_freeze() for shard, replica in self._replicas.items()}\n",
                "            flushed = {shard: replica.flushed for shard, replica in self._replicas.items()}\n",
            ),
            Change(
                FLUSHER,
                "            rows[NODE_ROWS] = self._node.rows()\n",
                "            rows[NODE_ROWS] = self._node.rows()\n"
                "            for replica in self._replicas.values():\n"
                "                replica.before_freeze()\n",
            ),
        ),
    ),
    Mutant(
        "commit-error-ignored",
        "A transaction of the store that failed counts as done, and the log is cut.",
        ("disks", "mixed"),
        (
            Change(
                FLUSHER,
                "            except BaseException as error:\n                self._driver.fatal(error)\n"
                "                raise\n",
                "            except Exception:\n                pass\n",
            ),
        ),
    ),
    Mutant(
        "client-results-not-flushed",
        "What clients' requests came to is not in the store: after a restart it is gone, and the log is cut.",
        ("crashes", "transactions", "mixed"),
        (
            Change(
                "kvnode.shard.state_machine",
                "            self._put_or_delete(CLIENT + name, row)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "corruption-cut-as-torn-tail",
        "A damaged record in the middle of the log is cut with all behind it, as if it were a torn tail (Alagappan et al., "
        "FAST "
        "2018).",
        ("damage",),
        (
            Change(LOG, "        if damage is not None:\n", "        if False:\n"),
            Change(
                LOG,
                '            raise self._corrupt(segment.name, offset, f"frame {self._sequence} is damaged, and another '
                'segment follows")\n',
                "            return\n",
            ),
        ),
    ),
    Mutant(
        "hard-state-forgotten",
        "A restart does not read the term and the vote back (cornerstone issue 65).",
        ("crashes", "mixed"),
        (
            Change(
                RECOVERY,
                "            found.shard(record.shard).hard_state = HardState(record.term, record.vote, record.commit)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "last-segment-forgotten",
        "A restart does not read the newest segment (an off by one in the list of files).",
        ("crashes", "mixed"),
        (
            Change(
                LOG,
                '                raise self._corrupt(f"log-{before + 1:016d}", 0, f"the file is missing, while segment '
                '{number} exists")\n        return numbers\n',
                '                raise self._corrupt(f"log-{before + 1:016d}", 0, f"the file is missing, while segment '
                '{number} exists")\n        return numbers[:-1] or numbers\n',
            ),
        ),
    ),
    Mutant(
        "held-writes-forgotten",
        "A restart does not take the eventual writes that the log holds back into memory.",
        ("crashes", "mixed"),
        (Change("kvnode.node", "        replica.restore_held(found.eventual, now)\n", ""),),
    ),
    Mutant(
        "held-rows-forgotten",
        "A restart does not take the eventual writes that were flushed back into memory, while the log is cut.",
        ("crashes", "mixed", "partitions"),
        (
            Change(
                "kvnode.node",
                "        replica.restore_local_rows(self.store.scan(shard, LOCAL, bytes([LOCAL[0] + 1])), now)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "full-disk-answers-at-once",
        "On a full disk answers leave though the entries that they stand for wait for space.",
        ("disks", "mixed"),
        (
            Change(
                "kvnode.runtime.log_batch",
                "(now if is_vote or answer.message.shard not in waiting else later).answers.append(answer)",
                "now.answers.append(answer)",
            ),
        ),
    ),
    Mutant(
        "get-misses-rows-being-flushed",
        "Reads do not look into the memory table that is being flushed: its rows are gone for that moment.",
        ("disks", "mixed"),
        (
            Change(
                "kvnode.storage.table",
                "        if self._frozen is not None:\n            value = self._frozen.get(key, _ABSENT)\n",
                "        if False:\n            value = self._frozen.get(key, _ABSENT)\n",
            ),
        ),
    ),
    Mutant(
        "range-misses-rows-being-flushed",
        "Scans do not look into the memory table that is being flushed.",
        ("disks", "transactions", "mixed"),
        (
            Change(
                "kvnode.storage.table",
                "        if self._frozen is not None:\n            newer = _merge(",
                "        if False:\n            newer = _merge(",
            ),
        ),
    ),
    Mutant(
        "clock-not-restored",
        "The hybrid clock begins at the wall clock after a restart: it may go back, and stamps come twice.",
        ("clocks", "mixed"),
        (Change("kvnode.node", "        clock.restore(recovered.clock_bound)\n", ""),),
    ),
    Mutant(
        "clock-bound-ignored",
        "Stamps run ahead of the bound that is on the disk, up to which a restart would know them.",
        ("clocks", "mixed"),
        (
            Change(
                "kvnode.protocol.clock",
                "        reachable_ms = min(wall_ms, physical_ms(self._bound) - BOUND_RESERVE_MS)\n",
                "        reachable_ms = wall_ms\n",
            ),
            Change(
                "kvnode.protocol.clock",
                "        invariant(stamp < self._bound, f\"the clock's bound {self._bound} is used up: a new bound must be "
                'durable first")\n',
                "",
            ),
        ),
    ),
)
