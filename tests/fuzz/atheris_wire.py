"""Coverage-guided fuzzing of kvwire with atheris: `make fuzz-wire SECONDS=600`.

    python -m tests.fuzz.atheris_wire server -max_total_time=600
    python -m tests.fuzz.atheris_wire client build/fuzz/crash-...      # one input again

An input is two bytes, which say how the rest is cut and whether the peer reads, and the bytes that the peer sends. It begins
with the recorded conversations (`corpus/wire/`), and keeps what it finds new in `build/fuzz/`. The demands are those of
`wire_bench.py`. An input that fails is printed by name; cut down (`-minimize_crash=1`), it belongs into
`test_fuzz_wire_findings.py`.
"""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["kvwire", "hpack"]):
    import kvwire  # noqa: F401

from tests.fuzz import wire_bench, wire_corpus

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "fuzz"
DIRECTIONS = {"server": wire_corpus.TO_SERVER, "client": wire_corpus.TO_CLIENT}
BENCHES = {"server": wire_bench.serve, "client": wire_bench.ask}
INPUT_BYTES_MAX = 8_192
SIZES = {0: 0, 3: 4, 4: 6, 6: 8, 7: 8, 8: 4, 9: 0}
KINDS = [bytes([size >> 8, size & 255, kind]) for kind, size in SIZES.items()]
"""The beginnings of frames, but for their first byte: lengths that fit, and kinds."""


def script(data: bytes) -> list[tuple[bytes, bool]]:
    """What an input says."""
    if len(data) < 2:
        return []
    cut, reads, sent = data[0], data[1], data[2:]
    size = len(sent) or 1
    if cut:
        size = max(1, len(sent) // (1 + cut % 16))
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    return [(piece, not reads >> number % 8 & 1) for number, piece in enumerate(pieces)]


def mutated(data: bytes, size_max: int, seed: int) -> bytes:
    """Half of the time frames are changed as frames: lengths stay right, so that what lies behind is still read."""
    rng = random.Random(seed)
    if rng.random() < 0.5 or len(data) < 12:
        return bytes(atheris.Mutate(data, size_max))[:size_max]
    pieces = wire_corpus.split(data[2:])
    place = rng.randrange(len(pieces))
    piece, action = pieces[place], rng.randrange(6)
    if action == 0:
        pieces.insert(place, rng.choice(pieces))
    elif action == 1:
        del pieces[place]
    elif action == 2 and len(piece) >= 9:
        payload = bytes(atheris.Mutate(piece[9:], 1_024))
        pieces[place] = len(payload).to_bytes(3, "big") + piece[3:9] + payload
    elif action == 3 and len(piece) >= 9:
        pieces[place] = piece[:5] + rng.choice((0, 1, 3, 5, 7, 9)).to_bytes(4, "big") + piece[9:]
    elif action == 4 and len(piece) >= 9:
        pieces[place] = piece[:4] + bytes([piece[4] ^ 1 << rng.randrange(8)]) + piece[5:]
    else:
        head = rng.choice(KINDS)
        payload = rng.randbytes(int.from_bytes(head[:2], "big"))
        pieces.insert(
            place, b"\x00" + head + bytes([rng.choice((0, 1, 4, 5))]) + rng.choice((0, 1, 3)).to_bytes(4, "big") + payload
        )
    return (data[:2] + b"".join(pieces))[:size_max]


def main() -> None:
    """Runs until the time is up, or an input fails."""
    role, *arguments = sys.argv[1:]
    bench = BENCHES[role]
    logging.disable(logging.CRITICAL)
    grown = BUILD / role
    seeds = BUILD / f"{role}-seeds"
    for folder in (grown, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for name in wire_corpus.names():
        (seeds / name).write_bytes(b"\x00\x00" + wire_corpus.one_side(name, DIRECTIONS[role])[:INPUT_BYTES_MAX])

    def play(data: bytes) -> None:
        wire_bench.run(bench(script(data)))

    is_replay = any(Path(argument).is_file() for argument in arguments)
    folders = [] if is_replay else [str(grown), str(seeds)]
    limits = [f"-artifact_prefix={BUILD}/", f"-max_len={INPUT_BYTES_MAX}", "-timeout=20", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, *arguments, *folders], play, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
