"""Compares loaderlab's native loader with fetching one sample at a time: vectors in memory to batches of 64, in turns.

    python -m benchmarks.vectors_throughput --rounds 15 --seconds 2 --samples 60000 --features 784

The recipe is a ``TensorDataset`` in a plain DataLoader with 0 and with 2 workers and torch's other defaults. Ours is
``data=vectors loader=native`` with its defaults (0 workers, whole batches). Prints the samples per second of each arm and the
ratios. The target is 10 times, for the lower end of the confidence interval. The turns are described in
`benchmarks.harness.turns`.
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
BATCH, TARGET = 64, 10.0


def train_split(samples: int, features: int) -> Split:
    """The training samples of ``data=vectors``."""
    from loaderlab.config import VectorsData
    from loaderlab.data import vectors

    return vectors.build(VectorsData(num_samples=samples, num_features=features)).train


def recipe(samples: int, features: int, workers: int) -> Served:
    """A plain DataLoader that fetches one sample at a time."""
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
    """loaderlab's native loader with its defaults."""
    from benchmarks.harness.turns import Served
    from loaderlab import loaders
    from loaderlab.config import NativeLoader
    from loaderlab.device.cpu import Cpu
    from loaderlab.loaders.contract import EpochPlan

    plan = EpochPlan(samples, BATCH, shuffle=True, drop_last=True)
    loader = loaders.build(NativeLoader(), train_split(samples, features), plan, Cpu())
    batches = (len(batch) for epoch in itertools.count() for batch in loader.epoch(epoch))
    return Served(batches, loader.lookahead, loader.parallel)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the arms in turns and prints their ratios."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--rounds", type=options.count, default=15, help="repeats: turns of each arm")
    parser.add_argument("--seconds", type=options.number_above_0, default=2.0, help="length of a turn")
    parser.add_argument("--samples", type=options.count, default=60_000, help="vectors in memory")
    parser.add_argument("--features", type=options.count, default=784, help="numbers in a vector")
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
        outcome = "no verdict" if ratio.low is None else "reached" if ratio.low >= TARGET else "NOT reached"
        print(f"native / {arm.name}: {shown(ratio)}; target, lower end >= {TARGET:g}: {outcome}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
