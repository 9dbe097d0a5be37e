"""Compares a loader's random crops and flips, and its colors, with those of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loaderlab.data.spec import Split
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.loaders.fetch import requests
from loaderlab.loaders.fetchers import fetcher
from loaderlab.parity.distribution import FLOAT64, LEVEL, binomial_p, same_distribution
from loaderlab.parity.gradient_image import BLUE, Draws, GradientImage
from loaderlab.parity.result import ResultBuilder

NUM_EPOCHS = 2
BLUE_LEVELS = 3.0  # allowed difference of a draw's mean blue: more than JPEG and its colour rounding cause
OTHER_SEED = 1_000_003  # offset of the reference's seed
REPEATED = 0.1  # allowed share of repeated draws above the reference's share


def compare_draws(
    loader: Loader, split: Split, gradient: GradientImage, plan: EpochPlan, builder: ResultBuilder
) -> None:
    """Compares a loader's draws on a gradient image with the reference's.

    The reference is the native loader without workers; its random numbers differ from those of a run with this seed.
    """
    spec, normalization = split.transform, split.normalization
    assert spec is not None
    assert normalization is not None
    batches = (loader.transfer(batch) for epoch in range(NUM_EPOCHS) for batch in loader.epoch(epoch))
    drawn = gradient.read(batches, normalization)
    builder.set_num_draws(len(drawn.flipped))
    worst = int(np.abs(drawn.blue - BLUE).argmax())
    if abs(drawn.blue[worst] - BLUE) > BLUE_LEVELS:
        builder.add_mismatch(
            "mean", f"draw {worst} of the gradient image has a mean blue of {drawn.blue[worst]:.1f}, expected {BLUE}"
        )
    if spec.random_crop:
        reference = fetcher(split, True, "pillow")
        other = replace(plan, seed=plan.seed + OTHER_SEED)
        reference_requests = (request for epoch in range(NUM_EPOCHS) for request in requests(other, epoch))
        expected = gradient.read(map(reference.build, reference_requests), normalization)
        compare_crops(drawn, expected, plan.seed, builder)
    compare_flips(drawn, spec.flip, builder)


def compare_flips(drawn: Draws, probability: float, builder: ResultBuilder) -> None:
    """Compares the number of flips, and of samples with the same flip in both epochs, with the configured probability."""
    count, num_draws = int(drawn.flipped.sum()), len(drawn.flipped)
    p = binomial_p(count, num_draws, probability)
    builder.add_p_value("flip", p)
    if p < LEVEL:
        builder.add_mismatch(
            "flip",
            f"{count:,} of {num_draws:,} draws are flipped, expected a share of {probability:g} (p {p:.2g})",
        )
    first, second = np.split(drawn.flipped, NUM_EPOCHS)
    same, chance = int((first == second).sum()), probability**2 + (1 - probability) ** 2
    p = binomial_p(same, len(first), chance)
    builder.add_p_value("flip repeats", p)
    if p < LEVEL:
        builder.add_mismatch(
            "flip repeats",
            f"{same:,} of {len(first):,} samples have the same flip in both epochs, expected a share of {chance:g} (p {p:.2g})",
        )


def compare_crops(drawn: Draws, reference: Draws, seed: int, builder: ResultBuilder) -> None:
    """Compares the area, aspect and position of crops, and how many are repeated, with the reference's."""
    rng = np.random.default_rng(seed)
    expected = reference.measures
    for name, (field, values) in drawn.measures.items():
        others = expected[name][1]
        p = same_distribution(values, others, rng)
        builder.add_p_value(name, p)
        if p < LEVEL:
            builder.add_mismatch(field, f"{name} {_range(values)}; reference {_range(others)} (p {p:.2g})")
    repeated, expected_repeats = drawn.repeated(), reference.repeated()
    if repeated.mean() > expected_repeats.mean() + REPEATED:
        first = int(repeated.argmax())
        builder.add_mismatch(
            "crop repeats",
            f"{100 * repeated.mean():.0f} % of {len(repeated):,} draws repeat an earlier one, expected "
            f"{100 * expected_repeats.mean():.0f} % as in the reference; the first is draw {first}",
        )


def _range(values: FLOAT64) -> str:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"median {middle:.2f}, 5th to 95th percentile {low:.2f} to {high:.2f}"
