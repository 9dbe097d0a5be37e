"""In-memory vectors for the FeedForward study: one noisy cluster of points a class, made from a seed."""

from __future__ import annotations

import numpy as np

from loaderlab.config import VectorsData
from loaderlab.data.spec import FLOAT32, DataSpec, Split, Vectors

SPREAD = 4.0  # standard deviation of a cluster, in units of the centres' own: learnable, not trivial


def build(config: VectorsData) -> DataSpec:
    """Training samples and a sixth as many for validation, from the same clusters."""
    rng = np.random.default_rng(config.data_seed)
    centres = rng.standard_normal((config.num_classes, config.num_features), dtype=np.float32)

    def split(num_samples: int) -> Split:
        labels = rng.integers(0, config.num_classes, num_samples, dtype=np.int64)
        inputs = rng.standard_normal((num_samples, config.num_features), dtype=np.float32)
        inputs *= SPREAD
        inputs += centres[labels]
        return Split(Vectors(inputs, labels, config.work))

    return DataSpec(
        name="vectors",
        train=split(config.num_samples),
        val=split(config.num_samples // 6),
        classes=tuple(str(label) for label in range(config.num_classes)),
        sample_shape=(config.num_features,),
        sample_dtype="float32",
        location="memory",
        digest=f"seed{config.data_seed}-{config.num_samples}x{config.num_features}x{config.num_classes}",
    )


def work(sample: FLOAT32, passes: int) -> FLOAT32:
    """The per-sample work that ``data.work`` asks for, really done: each pass ranks the features and uses the ranks.

    Stands for the parsing and feature making of tabular pipelines. One pass sorts the F features and rescales the
    sample by its own interquartile range, which leaves it learnable: F log F work, nothing that a batch could share.
    """
    for _ in range(passes):
        order = np.sort(sample)
        spread = order[(3 * len(order)) // 4] - order[len(order) // 4]
        sample = sample / max(float(spread), 1e-6)
    return sample
