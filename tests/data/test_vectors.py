"""Vectors in memory, and the per-sample work."""

from __future__ import annotations

import numpy as np
import torch

from loaderlab import data
from loaderlab.config import VectorsData
from loaderlab.data.spec import Vectors
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


def test_classes_can_be_told_apart() -> None:
    source = data.build(VectorsData(num_samples=600), lambda *_: None).train.source
    assert isinstance(source, Vectors)
    inputs, labels = torch.from_numpy(source.inputs), torch.from_numpy(source.labels)
    centres = torch.stack([inputs[labels == label].mean(0) for label in range(10)])
    assert ((inputs @ centres.T - centres.square().sum(1) / 2).argmax(1) == labels).float().mean() > 0.9


def test_work_rescales_by_the_samples_own_spread() -> None:
    sample = np.array([4.0, 0.0, 2.0, 6.0], np.float32)  # sorted 0 2 4 6: quartiles 2 and 6
    assert work(sample, 0).tolist() == [4, 0, 2, 6]
    assert work(sample, 1).tolist() == [1, 0, 0.5, 1.5]
    assert work(sample, 2).tolist() == work(sample, 1).tolist()  # its spread is 1 by then
