"""A loop of short steps in which a coin decides before each step whether `loaderlab watch` records it. Prints the lengths' means.

python -m benchmarks.harness.watched_coin --steps 3000
python -m benchmarks.harness.watched_coin --steps 3000 --ddp     # a process group of one rank, whose gradients DDP exchanges
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

BATCH, FEATURES, WARMUP = 32, 1024, 200
OUTLIER = 4.0  # times the median: such steps were interrupted by the machine; writing rows to a file takes less


def lengths(steps: int, rows_file: Path | None, seed: int, *, ddp: bool = False) -> list[tuple[bool, int]]:
    """Whether each step was recorded, and its length in ns."""
    import torch

    from loaderlab.attach.recorder import recorder
    from loaderlab.attach.session import Session

    torch.set_num_threads(1)
    session = Session(rows_file=rows_file)
    session.start()
    batches = _batches()
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, FEATURES), torch.nn.ReLU(), torch.nn.Linear(FEATURES, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if ddp:
        model = _data_parallel(model)
    coin, results = random.Random(seed), []
    for _ in range(WARMUP + steps):
        recorder.on = recorder.collecting = coin.random() < 0.5
        began = time.perf_counter_ns()
        inputs, targets = next(batches)
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        results.append((recorder.on, time.perf_counter_ns() - began))
    recorder.on = recorder.collecting = True
    session.stop()
    return results[WARMUP:]


def _data_parallel(model: Any) -> Any:
    """The model in a process group of one rank; this process ends before the group."""
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())  # type: ignore[attr-defined]
    return DistributedDataParallel(model)


def _batches() -> Iterator[Any]:
    """Batches without end, from a loader whose passes are long."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.rand(BATCH * 500, FEATURES), torch.randint(0, 10, (BATCH * 500,)))
    loader = DataLoader(data, BATCH)
    while True:
        yield from loader


def summary(results: Sequence[tuple[bool, int]]) -> dict[str, float]:
    """The mean and the median of the steps with and without recording, ms; without steps that the machine interrupted."""
    ordered = sorted(length for _, length in results)
    limit = OUTLIER * ordered[len(ordered) // 2]
    kept = {
        on: sorted(length / 1e6 for was_on, length in results if was_on is on and length <= limit)
        for on in (True, False)
    }
    return {
        "on_ms": sum(kept[True]) / len(kept[True]),
        "off_ms": sum(kept[False]) / len(kept[False]),
        "on_median_ms": kept[True][len(kept[True]) // 2],
        "off_median_ms": kept[False][len(kept[False]) // 2],
        "left_out": len(results) - len(kept[True]) - len(kept[False]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the summary as JSON."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--steps", type=options.count, default=3000, help="measured steps")
    parser.add_argument("--seed", type=int, default=0, help="of the coin")
    parser.add_argument("--rows", action="store_true", help="also write the rows to a file, as --record does")
    parser.add_argument("--ddp", action="store_true", help="train with DistributedDataParallel, on one rank")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows.jsonl" if chosen.rows else None
        print(json.dumps(summary(lengths(chosen.steps, rows_file, chosen.seed, ddp=chosen.ddp))))


if __name__ == "__main__":
    main()
