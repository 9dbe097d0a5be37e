"""Measures what it costs to hand a batch over from a worker to the trainer: PyTorch's DataLoader and loaderlab's native loader.

    python -m benchmarks.hand_over           # about 4 minutes
    python -m benchmarks.hand_over --quick   # 1 minute

Prints the cost of each part of a hand-over, and then the data wait per step (the time in ``next``) of both loaders on the same
batches: blocks of steps in turns, in one process, with an idle step that sleeps. Each loader's workers wait while it is not its
turn, because their queues are full. A ratio is over the means of paired blocks. The target is a third of PyTorch's data wait, for
the upper end of the confidence interval.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness.handed_over import BatchKind

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("cifar", "images", "vectors")
TARGET = 1 / 3
QUICK_BLOCKS, QUICK_STEPS = 5, 25


def compare(kind: BatchKind, workers: int, blocks: int, steps: int, step_s: float) -> str:
    """One line for each loader's data wait, and one for their ratio."""
    import statistics

    from benchmarks.harness.handed_over import native_batches, torch_batches, waits_ms
    from loaderlab.compare.stats import ratio

    arms = {"native": native_batches(kind, workers), "DataLoader": torch_batches(kind, workers)}
    blocks_ms: dict[str, list[list[float]]] = {name: [] for name in arms}
    for number in range(blocks):
        for name in sorted(arms, reverse=number % 2 == 1):
            blocks_ms[name].append(waits_ms(arms[name], steps, step_s, discarded=2 * workers + 2))
        print(f"  block {number + 1} of {blocks}", file=sys.stderr, flush=True)
    means = {name: [statistics.fmean(block) for block in of_arm] for name, of_arm in blocks_ms.items()}
    lines = [
        f"{name}: data wait {statistics.fmean(means[name]):.3f} ms (median step "
        f"{statistics.median(wait for block in blocks_ms[name] for wait in block):.3f}; blocks {min(means[name]):.3f} to {max(means[name]):.3f})"
        for name in arms
    ]
    result = ratio(list(zip(means["native"], means["DataLoader"], strict=True)))
    if result.low is None or result.high is None:
        return "\n".join([*lines, f"native / DataLoader: {result.value:.3f} (n = {blocks}, no interval)"])
    outcome = "reached" if result.high <= TARGET else "NOT reached"
    interval = f"{result.low:.3f} to {result.high:.3f}, n = {blocks}"
    lines.append(f"native / DataLoader: {result.value:.3f} ({interval}); target, upper end <= {TARGET:.3f}: {outcome}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the parts and the comparison for each kind of batches."""
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_BLOCKS} blocks of {QUICK_STEPS} steps")
    parser.add_argument("--blocks", type=options.count, default=15, help="repeats: blocks of each loader")
    parser.add_argument("--steps", type=options.count, default=50, help="steps of a block")
    parser.add_argument("--step-ms", type=options.number_above_0, default=20.0, help="length of the idle step")
    parser.add_argument("--workers", type=options.count, default=2, help="worker processes of each loader")
    parser.add_argument("--kinds", nargs="+", choices=NAMES, default=list(NAMES), help="batches to hand over")
    parser.add_argument("--no-parts", action="store_true", help="only the comparison")
    chosen = parser.parse_args(arguments)

    from benchmarks.harness import hand_over_parts
    from benchmarks.harness.handed_over import KINDS

    blocks, steps = (QUICK_BLOCKS, QUICK_STEPS) if chosen.quick else (chosen.blocks, chosen.steps)
    step_s = chosen.step_ms / 1e3
    for name in chosen.kinds:
        kind = KINDS[name]
        print(f"\n{kind}, {chosen.workers} workers, a step of {chosen.step_ms:g} ms", flush=True)
        if not chosen.no_parts:
            print(hand_over_parts.table(hand_over_parts.parts_ms(kind.num_bytes, steps, step_s)), flush=True)
        print(compare(kind, chosen.workers, blocks, steps, step_s), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
