"""Coverage-guided fuzzing of everything that reads bytes of strangers; see scripts/fuzz.

atheris keeps every input that reaches new code, and changes those further. A finding is written to FOLDER as
crash-*, and `scripts/fuzz FILE` shows it again. Each input may take CPU_S, atheris's own work included; one
in MEMORY_EVERY is held to its limit of memory.
"""

import argparse
import random
import sys
import time
import tracemalloc
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["broker"]):
    from tests.fuzz import mutation, targets

CPU_S = 0.05
MEMORY_EVERY = 50
FOLDER = Path("build/fuzz")


class Runner:
    """Counts inputs, and measures what they take."""

    def __init__(self) -> None:
        self.inputs = 0
        self.slowest_s = 0.0

    def __call__(self, data: bytes) -> None:
        """Take one input."""
        self.inputs += 1
        traced = self.inputs % MEMORY_EVERY == 0
        if traced:
            tracemalloc.start()
        start_s = time.thread_time()
        try:
            targets.any_target(data)
        finally:
            took_s = time.thread_time() - start_s
            if traced:
                tracemalloc.stop()
        if not traced:
            self.slowest_s = max(self.slowest_s, took_s)
            assert took_s <= CPU_S or self.inputs < MEMORY_EVERY, (
                f"{took_s:.3f} s of CPU for {len(data)} bytes"
            )


def main() -> None:
    """Fuzz for some minutes, or show inputs again."""
    parser = argparse.ArgumentParser(
        description="Feeds changed messages, chunks, topics and tensors to the readers."
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("files", nargs="*", type=Path, help="inputs to run once more, instead of fuzzing")
    asked = parser.parse_args()
    if asked.files:
        for file in asked.files:
            targets.any_target(file.read_bytes())
        return
    corpus = FOLDER / "inputs"
    corpus.mkdir(parents=True, exist_ok=True)
    pool = mutation.seeds()
    for number, data in enumerate(pool):
        (corpus / f"seed-{number:03}").write_bytes(data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = mutation.mutate(data, rng, pool) if rng.random() < 0.5 else atheris.Mutate(data, len(data))
        return bytes(changed[:most])

    runner = Runner()
    options = [f"-max_total_time={round(60 * asked.minutes)}", "-max_len=4096", "-print_final_stats=1"]
    options += [f"-artifact_prefix={FOLDER}/", f"-seed={asked.seed}", "-rss_limit_mb=1000"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], runner, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
