"""Whether a loader draws its crops and flips as the reference does, its marker's colour among what is looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loaderlab.data.spec import Split
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.loaders.fetch import requests
from loaderlab.loaders.fetchers import fetcher
from loaderlab.parity.distribution import FLOAT64, LEVEL, same_distribution, so_many
from loaderlab.parity.gradient_image import BLUE, Draws, GradientImage
from loaderlab.parity.result import ResultBuilder

NUM_EPOCHS = 2
BLUE_LEVELS = 3.0  # by which a draw's blue may differ: what JPEG and its colours' rounding leave, and more
OTHER_SEED = 1_000_003  # how far the reference's seed is away
REPEATED = 0.1  # share of draws that may come twice, beyond what the reference's do


def compare_draws(
    loader: Loader, split: Split, gradient: GradientImage, plan: EpochPlan, builder: ResultBuilder
) -> None:
    """Compares the draws of a loader of a gradient image's split with the reference's: those of the native loader without
    workers, from other random numbers than a run of this seed."""
    spec, normalization = split.transform, split.normalization
    assert spec is not None
    assert normalization is not None
    batches = (loader.transfer(batch) for epoch in range(NUM_EPOCHS) for batch in loader.epoch(epoch))
    drawn = gradient.read(batches, normalization)
    builder.set_num_draws(len(drawn.flipped))
    worst = int(np.abs(drawn.blue - BLUE).argmax())
    if abs(drawn.blue[worst] - BLUE) > BLUE_LEVELS:
        builder.add_mismatch(
            "mean", f"draw {worst} of a probe has a mean blue of {drawn.blue[worst]:.1f}, it must be {BLUE}"
        )
    if spec.random_crop:
        reference = fetcher(split, True, "pillow")
        other = replace(plan, seed=plan.seed + OTHER_SEED)
        asked = (request for epoch in range(NUM_EPOCHS) for request in requests(other, epoch))
        compare_crops(drawn, gradient.read(map(reference.build, asked), normalization), plan.seed, builder)
    compare_flips(drawn, spec.flip, builder)


def compare_flips(drawn: Draws, probability: float, builder: ResultBuilder) -> None:
    """Compares the number of flips, and of samples that do the same in both epochs, with the declared probability."""
    count, num_draws = int(drawn.flipped.sum()), len(drawn.flipped)
    p = so_many(count, num_draws, probability)
    builder.add_p_value("flip", p)
    if p < LEVEL:
        builder.add_mismatch(
            "flip",
            f"{count:,} of {num_draws:,} draws are flipped, declared is a share of {probability:g} (p {p:.2g})",
        )
    first, second = np.split(drawn.flipped, NUM_EPOCHS)
    same, chance = int((first == second).sum()), probability**2 + (1 - probability) ** 2
    p = so_many(same, len(first), chance)
    builder.add_p_value("flip repeats", p)
    if p < LEVEL:
        builder.add_mismatch(
            "flip repeats",
            f"{same:,} of {len(first):,} samples do the same in both epochs, by chance a share of {chance:g} would (p {p:.2g})",
        )


def compare_crops(drawn: Draws, reference: Draws, seed: int, builder: ResultBuilder) -> None:
    """Compares area, aspect and position of crops, and how many of them come again, with the reference's."""
    rng = np.random.default_rng(seed)
    expected = reference.measures
    for name, (field, values) in drawn.measures.items():
        others = expected[name][1]
        p = same_distribution(values, others, rng)
        builder.add_p_value(name, p)
        if p < LEVEL:
            builder.add_mismatch(field, f"{name} {_range(values)}; of the reference {_range(others)} (p {p:.2g})")
    again, wonted = drawn.repeated(), reference.repeated()
    if again.mean() > wonted.mean() + REPEATED:
        first = int(again.argmax())
        builder.add_mismatch(
            "crop repeats",
            f"{100 * again.mean():.0f} % of {len(again):,} draws came before, of the reference's "
            f"{100 * wonted.mean():.0f} %; the first is draw {first}",
        )


def _range(values: FLOAT64) -> str:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"median {middle:.2f}, nine in ten {low:.2f} to {high:.2f}"
