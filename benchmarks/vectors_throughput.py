"""Vectors in memory to batches of 64: loaderlab's native loader against one sample at a time, in turns.

    python -m benchmarks.vectors_throughput --rounds 15 --seconds 2 --samples 60000 --features 784

The recipe is a ``TensorDataset`` in a plain DataLoader with 0 and with 2 workers, torch's defaults else; ours is
``data=vectors loader=native`` as it comes (0 workers, whole batches). Prints the samples a second of each and the ratios;
the bar is 10 times, for the lower end of the interval. See `benchmarks.harness.turns` for the turns.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness.turns import Served
    from loaderlab.data.spec import Split

ROOT = Path(__file__).resolve().parents[1]
BATCH, BAR = 64, 10.0


def train_split(samples: int, features: int) -> Split:
    from loaderlab.config import VectorsData
    from loaderlab.data import vectors

    return vectors.build(VectorsData(num_samples=samples, num_features=features)).train


def recipe(samples: int, features: int, workers: int) -> Served:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    from benchmarks.harness.turns import Served
    from loaderlab.data.spec import Vectors

    source = train_split(samples, features).source
    assert isinstance(source, Vectors)
    dataset = TensorDataset(torch.from_numpy(source.inputs), torch.from_numpy(source.labels))
    loader = DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        multiprocessing_context="fork" if workers else None,
    )
    batches = (len(targets) for _ in itertools.count() for _, targets in loader)
    return Served(batches, 2 * workers, max(1, workers))


def native(samples: int, features: int) -> Served:
    import torch

    from benchmarks.harness.turns import Served
    from loaderlab import loaders
    from loaderlab.config import NativeLoader
    from loaderlab.loaders.contract import EpochPlan

    plan = EpochPlan(samples, BATCH, shuffle=True, drop_last=True)
    loader = loaders.build(NativeLoader(), train_split(samples, features), plan, torch.device("cpu"))
    batches = (len(batch) for epoch in itertools.count() for batch in loader.epoch(epoch))
    return Served(batches, loader.lookahead, loader.parallel)


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--rounds", type=options.count, default=15, help="turns of each arm")
    parser.add_argument("--seconds", type=options.number_above_0, default=2.0, help="of a turn")
    parser.add_argument("--samples", type=options.count, default=60_000, help="vectors in memory")
    parser.add_argument("--features", type=options.count, default=784, help="numbers of a vector")
    chosen = parser.parse_args(arguments)

    from benchmarks.harness.turns import Arm, paired, shown, table, take_turns

    size = chosen.samples, chosen.features
    arms = [
        Arm("one at a time, 0 workers", recipe, (*size, 0)),
        Arm("one at a time, 2 workers", recipe, (*size, 2)),
        Arm("native", native, size),
    ]
    turns = take_turns(arms, chosen.rounds, chosen.seconds)
    print(f"{size[0]:,} vectors of {size[1]} float32, batch {BATCH}")
    print(table(turns, arms[0].name))
    for arm in arms[:2]:
        ratio = paired(turns, "native", arm.name)
        said = "not judged" if ratio.low is None else "reached" if ratio.low >= BAR else "NOT reached"
        print(f"native / {arm.name}: {shown(ratio)}; the bar, lower end >= {BAR:g}, is {said}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # run by its path, a file finds only its own folder
    main()
