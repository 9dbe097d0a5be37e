"""Vectors in memory, and the per-sample work."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from loaderlab import data
from loaderlab.config import VectorsData
from loaderlab.data.spec import DataError, Vectors
from loaderlab.data.vectors import work


def test_made_from_the_seed() -> None:
    first, again, other = (
        data.build(VectorsData(num_samples=60, data_seed=seed), lambda *_: None) for seed in (0, 0, 1)
    )
    assert isinstance(first.train.source, Vectors)
    assert isinstance(again.train.source, Vectors)
    assert isinstance(other.train.source, Vectors)
    assert first.train.source.inputs.shape == (60, 784)
    assert first.train.source.inputs.dtype == np.float32
    assert first.val is not None
    assert first.val.num_samples == 10
    assert (first.train.source.inputs == again.train.source.inputs).all()
    assert (first.train.source.inputs != other.train.source.inputs).any()


def test_classes_are_separable() -> None:
    source = data.build(VectorsData(num_samples=600), lambda *_: None).train.source
    assert isinstance(source, Vectors)
    inputs, labels = torch.from_numpy(source.inputs), torch.from_numpy(source.labels)
    centres = torch.stack([inputs[labels == label].mean(0) for label in range(10)])
    assert ((inputs @ centres.T - centres.square().sum(1) / 2).argmax(1) == labels).float().mean() > 0.9


def test_work_rescales_by_the_samples_own_spread() -> None:
    sample = np.array([4.0, 0.0, 2.0, 6.0], np.float32)  # sorted 0 2 4 6: quartiles 2 and 6
    assert work(sample, 0).tolist() == [4, 0, 2, 6]
    assert work(sample, 1).tolist() == [1, 0, 0.5, 1.5]
    assert work(sample, 2).tolist() == work(sample, 1).tolist()  # its spread is 1 already


@pytest.mark.parametrize(
    ("setting", "value"), [("num_samples", 2_000_000_000), ("num_features", 2_000_000_000), ("num_classes", 2**31 - 1)]
)
def test_a_set_that_does_not_fit_in_memory_is_refused_before_anything_is_made(
    setting: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaderlab.data.room.available_memory", lambda: 2**30)
    monkeypatch.setattr("numpy.random.default_rng", None)  # nothing is made
    with pytest.raises(DataError, match=rf"data\.{setting}={value}: .* 1\.1 GB are available") as refused:
        data.build(VectorsData(**{setting: value}), lambda *_: None)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(f"Type for example: data.{setting}={getattr(VectorsData(), setting)}")


@pytest.mark.parametrize("fits", [True, False])
def test_the_needed_memory_is_computed_exactly(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """(60 + 10) samples of 4 * 784 + 16 bytes, 60 rows that are added at a time, 10 classes of 4 * 784 + 64 bytes."""
    needed = 70 * (4 * 784 + 16) + 60 * 4 * 784 + 10 * (4 * 784 + 64)
    monkeypatch.setattr("loaderlab.data.room.available_memory", lambda: needed - (not fits))
    config = VectorsData(num_samples=60)
    if fits:
        assert data.build(config, lambda *_: None).train.num_samples == 60
    else:
        with pytest.raises(DataError, match=r"data\.num_samples=60: 70 samples"):
            data.build(config, lambda *_: None)


def test_vectors_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VectorsData(num_samples=60)
    whole = data.build(config, lambda *_: None).train.source
    monkeypatch.setattr("loaderlab.data.vectors.CHUNK", 7)
    chunked = data.build(config, lambda *_: None).train.source
    assert isinstance(whole, Vectors)
    assert isinstance(chunked, Vectors)
    assert (whole.inputs == chunked.inputs).all()
