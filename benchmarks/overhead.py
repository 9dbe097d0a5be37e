"""Measures what the meter costs: the training loop with and without it, in turns, on the same batches.

    python -m benchmarks.overhead                     # a model whose step takes about 1 ms on one core
    python -m benchmarks.overhead --device cuda --model resnet50 --batch 64

Prints the median ratio of the paired blocks with its 95 % confidence interval (bootstrap over pairs), and the value that a
run reports as ``meter/overhead_pct``. Then compares the ceiling probe with a loop written by hand on the same resident
batches, and with the same loop fed by the replay of DALI's own loader evaluator. Without DALI: ``--measure meter by_hand``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaderlab.device.base import Device
    from loaderlab.loaders.contract import Batch
    from loaderlab.training.loop import Parts

ROOT = Path(__file__).resolve().parents[1]
METER, BY_HAND, EVALUATOR = MEASURES = ("meter", "by_hand", "evaluator")
LABELS = {BY_HAND: "loop by hand", EVALUATOR: "DALI's replay evaluator"}


def meter_cost(
    parts: Parts, batches: list[Batch], device: Device, pairs: int, steps: int
) -> tuple[list[float], list[float]]:
    """The ratio metered / bare of each comparison, and the milliseconds of the bare steps."""
    import numpy as np

    from benchmarks.harness.overhead_loops import Bare, Turns, block_s, blocks
    from loaderlab.meter.phases import StepMeter

    for meter in (Bare(device), StepMeter(device)):
        block_s(parts, batches, meter, steps)
    if device.capabilities.asynchronous:  # the host runs ahead: only whole blocks that end in a wait can be timed
        return blocks(parts, batches, device, pairs, steps)
    turns = Turns(device)
    block_s(parts, batches, turns, pairs * steps)
    lengths = np.array(turns.lengths[steps:], np.float64)
    ratios = []
    for chunk in np.array_split(lengths, len(lengths) // 40):
        with_meter, without = (float(np.median(chunk[chunk[:, 0] == is_on, 1])) for is_on in (1, 0))
        ratios.append(with_meter / without)
    return ratios, list(lengths[lengths[:, 0] == 0, 1] / 1e6)


def ceiling_ratios(
    parts: Parts, batches: list[Batch], seconds: float, rounds: int, references: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """The ceiling's rate divided by that of each reference: median and 95 % confidence interval.

    Args:
        references: of the loop by hand and DALI's evaluator. DALI is imported only for the latter.
    """
    from benchmarks.harness.overhead_loops import by_hand, median_and_interval
    from loaderlab.probes import ceiling as step_alone

    def ceiling() -> float:
        rate = step_alone.ceiling(parts, batches, seconds, 1)
        if rate is None:
            raise SystemExit(f"error: --seconds {seconds}: this is too short to measure a rate")
        return rate.samples_per_s

    def evaluator() -> float:
        from nvidia.dali.plugin.pytorch.loader_evaluator import LoaderEvaluator

        replayed: Iterable[Batch] = LoaderEvaluator(batches, mode="replay")
        return by_hand(parts, replayed, seconds)

    known = {BY_HAND: lambda: by_hand(parts, batches, seconds), EVALUATOR: evaluator}
    arms = {"ceiling": ceiling} | {name: known[name] for name in references}
    by_hand(parts, batches, seconds)  # the first steps load kernels and try algorithms, for seconds
    samples_per_s: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(rounds):
        for place in range(len(arms)):
            arm = list(arms)[(turn + place) % len(arms)]
            samples_per_s[arm].append(arms[arm]())
    return {
        arm: median_and_interval(
            [
                ceiling_rate / rate
                for ceiling_rate, rate in zip(samples_per_s["ceiling"], samples_per_s[arm], strict=True)
            ]
        )
        for arm in references
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The measured ratios, which are also printed. Those that were not requested are missing."""
    chosen = _options(arguments)
    import torch

    from benchmarks.harness.overhead_loops import make
    from loaderlab.device.resolve import resolve_device

    device = resolve_device(chosen.device)
    asynchronous = device.capabilities.asynchronous
    if asynchronous:
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(1)
    parts, batches = make(device, chosen.model, chosen.batch, chosen.precision, channels_last=chosen.channels_last)
    results: dict[str, Any] = {
        "model": chosen.model,
        "precision": chosen.precision,
        "channels_last": chosen.channels_last,
    }
    if METER in chosen.measure:
        pairs = chosen.pairs or (40 if asynchronous else 1200)
        results |= _meter(parts, batches, device, pairs, chosen.steps)
    references = [name for name in LABELS if name in chosen.measure]
    results["ceiling"] = ceiling_ratios(parts, batches, chosen.seconds, chosen.rounds, references) if references else {}
    for name, (median, low, high) in results["ceiling"].items():
        print(f"ceiling / {LABELS[name]}: {median:.4f} ({low:.4f} to {high:.4f}), n = {chosen.rounds}")
    return results


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    from benchmarks.harness import options

    parser = options.parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the steps")
    parser.add_argument("--model", default="mlp", help="mlp, or the name of a timm model")
    parser.add_argument("--batch", type=options.count, default=64, help="samples in a batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="precision of the steps")
    parser.add_argument("--channels-last", action="store_true", help="channels-last weights and images")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES, help="what to measure")
    parser.add_argument("--pairs", type=options.count, help="pairs of blocks (default: 40 on a GPU, 1200 otherwise)")
    parser.add_argument("--steps", type=options.count, default=50, help="steps in a block")
    parser.add_argument(
        "--rounds", type=options.count, default=100, help="repeats of ceiling, loop by hand and evaluator"
    )
    parser.add_argument("--seconds", type=options.number_above_0, default=0.3, help="length of a turn of those three")
    return parser.parse_args(arguments)


def _meter(parts: Parts, batches: list[Batch], device: Device, pairs: int, steps: int) -> dict[str, Any]:
    """The cost of the meter, which is also printed."""
    import numpy as np

    from benchmarks.harness.overhead_loops import median_and_interval
    from loaderlab.meter.phases import own_cost_ns

    ratios, bare_ms = meter_cost(parts, batches, device, pairs, steps)
    ratio, low, high = median_and_interval(ratios)
    step_ms = float(np.median(bare_ms))
    reported = own_cost_ns(device) / 1e4 / step_ms
    print(f"on {device}: a step takes {step_ms:.3f} ms, n = {len(ratios)} comparisons")
    print(f"metered / bare: {ratio:.4f} ({low:.4f} to {high:.4f}); the run would report {reported:.3f} % overhead")
    return {"ratio": (ratio, low, high), "reported_pct": reported, "step_ms": step_ms}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # started by its path, Python imports only from this file's folder
    main()
