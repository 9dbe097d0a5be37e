"""Compares loaderlab's loaders with plain code for the same libraries: JPEG files to batches of 64 on the CPU, in turns.

    python -m benchmarks.loader_throughput --rounds 15 --seconds 2 --sizes 400x320 500x375 --arms native recipe

Prints for each arm the samples per second, the ratio to torchvision's usual recipe, and the share of the throughput of the
decoder alone on the same cores. (DALI decodes only the crop, so its share may exceed 100 %.) Then prints whether each target
is reached, and after each round the time that is left. Every arm has as many workers or threads as there are cores, with one torch thread in each. The turns are
described in `benchmarks.harness.turns`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PROGRESS = "  round {} of {}, about {:.1f} min left"
ROOT = Path(__file__).resolve().parents[1]


class Progress:
    """Prints a line after each round, with the time that the other rounds of this size will take."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._began_s = rounds, time.perf_counter()

    def __call__(self, number: int) -> None:
        elapsed_min = (time.perf_counter() - self._began_s) / 60
        print(PROGRESS.format(number, self._rounds, elapsed_min / number * (self._rounds - number)), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--rounds", type=options.count, default=15, help="repeats: turns of each arm")
    parser.add_argument("--seconds", type=options.number_above_0, default=1.2, help="length of a turn")
    parser.add_argument("--starts", type=options.count, default=3, help="how often the arms are started")
    parser.add_argument(
        "--sizes", type=options.size, nargs="+", default=["400x320", "500x375"], help="sizes of the photos in pixels"
    )
    parser.add_argument("--arms", nargs="+", help="arms to run (default: all)")
    parser.add_argument(
        "--workers", type=options.count, help="workers or threads of an arm (default: the number of cores)"
    )
    parser.add_argument("--root", help="folder of the photos (default: loaderlab_photos in the temporary folder)")
    chosen = parser.parse_args(arguments)

    from benchmarks.harness.loader_arms import NUM_FILES, all_arms, photos, target_lines
    from benchmarks.harness.peers import LIMITS, missing_for_spdl
    from benchmarks.harness.turns import median_rate, table, take_turns
    from loaderlab import data
    from loaderlab.system.machine import available_cores

    workers = chosen.workers or available_cores()
    if missing := missing_for_spdl():
        print(f"bare SPDL is left out: {missing}")
    for size in chosen.sizes:
        files = photos(size, chosen.root)
        folder = Path(data.build(files, lambda *_: None).location)
        num_bytes = [path.stat().st_size for path in folder.rglob("*.jpg")]
        arms = all_arms(files, folder, workers)
        if unknown := set(chosen.arms or ()) - {arm.name for arm in arms}:
            parser.error(f"argument --arms: no arm is called {', '.join(sorted(unknown))}")
        arms = [arm for arm in arms if chosen.arms is None or arm.name in chosen.arms]
        print(
            f"\n{NUM_FILES} photos of {size}, {statistics.fmean(num_bytes) / 1024:.0f} KiB each; {workers} workers or threads"
        )
        for arm in arms:
            print(f"  {arm.name}: {arm.label}")
        turns = take_turns(arms, chosen.rounds, chosen.seconds, chosen.starts, Progress(chosen.rounds))
        first = next(iter(turns))
        limits = [name for name in LIMITS if name in turns]
        limit = max(limits, key=lambda name: median_rate(turns[name]), default=None)
        print(table(turns, "recipe" if "recipe" in turns else first, limit), flush=True)
        print("\n".join(target_lines(turns)), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
