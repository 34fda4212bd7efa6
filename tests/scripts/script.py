"""Golden scripts: dialogues of pure protocols, command by command, each with everything that it made happen.

A script is a text of blocks, as in etcd's raft and CockroachDB's datadriven tests: commands, a line `----`, the output, an
empty line. Lines that begin with `#` are for people. The first command says whose dialogue it is, see `STAGES`; the others are
the methods `do_…` there, their arguments words. `limit NAME VALUE` sets one of `kvnode.limits` for the rest of the script.

`python -m tests.scripts.script --regenerate FILE…` writes the output anew: only for one who understands the difference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kvnode import limits
from tests.scripts.cluster_script import ScriptCluster
from tests.scripts.two_phase_script import ScriptShards

SEPARATOR = "----"
STAGES: Mapping[str, Callable[..., Any]] = {"cluster": ScriptCluster.begin, "shards": ScriptShards.begin}
"""By the command that begins a script: replicas of one shard, or shards with transactions."""


def run(text: str) -> str:
    """The script with the output that its commands have now."""
    stage: Any = None
    result: list[str] = []
    inside = False
    with pytest.MonkeyPatch.context() as patch:
        for line in text.splitlines():
            if inside:
                # The old output.
                if not line:
                    inside = False
                    result.append(line)
                continue
            result.append(line)
            if line == SEPARATOR:
                inside = True
                if stage is not None:
                    result.extend(stage.output)
                    stage.output.clear()
            elif line and not line.startswith("#"):
                name, *words = line.split()
                if name in STAGES:
                    stage = STAGES[name](*words)
                elif name == "limit":
                    patch.setattr(limits, words[0], int(words[1]))
                else:
                    assert stage is not None, f"a script begins with one of {list(STAGES)}"
                    getattr(stage, "do_" + name)(*words)
    return "\n".join(result) + "\n"


def main() -> None:
    """See the module's text."""
    assert sys.argv[1:2] == ["--regenerate"], __doc__
    for name in sys.argv[2:]:
        path = Path(name)
        path.write_text(run(path.read_text()))


if __name__ == "__main__":
    main()
