"""Runs the fuzz tests again and again with other examples, until the time is up or one fails: `make fuzz SECONDS=600`."""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """The exit status of the first round that failed; 0, if none did."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="no new round begins after so long")
    parser.add_argument("--factor", type=int, default=10, help="so many times the examples of make test in each round")
    parser.add_argument("--seed", type=int, help="one round with the seed that a failed round printed")
    parser.add_argument("-k", dest="keyword", default="fuzz", help="only tests with this in their names, as pytest's -k")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    while True:
        seed = secrets.randbits(32) if options.seed is None else options.seed
        print(f"python -m tests.fuzz.run --seed {seed} --factor {options.factor} -k '{options.keyword}'", flush=True)
        command = [sys.executable, "-m", "pytest", "-q", "-x", str(HERE), f"--hypothesis-seed={seed}", "-k", options.keyword]
        environment = {**os.environ, "KVNODE_FUZZ_FACTOR": str(options.factor)}
        status = subprocess.run([*command, "--timeout=3600"], env=environment, check=False).returncode
        if status or options.seed is not None or time.monotonic() >= until:
            return status


if __name__ == "__main__":
    sys.exit(main())
