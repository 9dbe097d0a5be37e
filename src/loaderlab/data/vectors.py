"""In-memory vectors for the FeedForward study: one noisy cluster of points per class, made from a seed."""

from __future__ import annotations

import numpy as np

from loaderlab.config import VectorsData
from loaderlab.data import room
from loaderlab.data.spec import FLOAT32, DataSpec, Split, Vectors

CHUNK = 65_536  # samples per addition of the centres
CLASS_BYTES = 64  # of a class's name
SAMPLE_BYTES = 16  # of a sample's label and its id in an epoch's order
SPREAD = 4.0  # standard deviation of a cluster relative to that of the centres: learnable, but not trivial


def build(config: VectorsData) -> DataSpec:
    """The spec of training samples, and a sixth as many validation samples from the same clusters.

    Raises:
        DataError: the samples do not fit in memory.
    """
    _check_memory(config)
    rng = np.random.default_rng(config.data_seed)
    centres = rng.standard_normal((config.num_classes, config.num_features), dtype=np.float32)

    def split(num_samples: int) -> Split:
        labels = rng.integers(0, config.num_classes, num_samples, dtype=np.int64)
        inputs = rng.standard_normal((num_samples, config.num_features), dtype=np.float32)
        inputs *= SPREAD
        for start in range(0, num_samples, CHUNK):  # adding all at once would need the memory of a second set
            inputs[start : start + CHUNK] += centres[labels[start : start + CHUNK]]
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


def _check_memory(config: VectorsData) -> None:
    """Raises:
    DataError: the samples do not fit in memory. The message names the setting that takes the most memory.
    """
    num_samples = config.num_samples + config.num_samples // 6
    row = 4 * config.num_features  # bytes of a float32 vector
    sample_bytes = num_samples * (row + SAMPLE_BYTES) + min(CHUNK, config.num_samples) * row
    class_bytes = config.num_classes * (row + CLASS_BYTES)
    defaults = VectorsData()
    names = ("num_samples", "num_features", "num_classes")
    setting = max(names, key=lambda name: getattr(config, name) / getattr(defaults, name))
    smaller = getattr(defaults, setting)
    if getattr(config, setting) <= smaller:
        setting, smaller = "num_samples", max(12, config.num_samples // 10)
    room.check_memory(
        f"data.{setting}",
        getattr(config, setting),
        f"{num_samples:,} samples of {config.num_features:,} features, including those for validation,",
        sample_bytes + class_bytes,
        f"data.{setting}={smaller}",
    )


def work(sample: FLOAT32, passes: int) -> FLOAT32:
    """The sample after ``data.work`` passes of per-sample work.

    It stands for the parsing and feature engineering of tabular pipelines. One pass sorts the F features and divides the
    sample by its interquartile range, so the sample stays learnable. It costs F log F and cannot be shared within a batch.
    """
    for _ in range(passes):
        order = np.sort(sample)
        spread = order[(3 * len(order)) // 4] - order[len(order) // 4]
        sample = sample / max(float(spread), 1e-6)
    return sample
