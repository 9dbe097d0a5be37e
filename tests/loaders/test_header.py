"""Pillow's limit on image size is removed, and our own limit applies instead."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from loaderlab.config import CustomData, NativeLoader, TrainConfig, UserError
from loaderlab.data import custom
from loaderlab.data.spec import DataError
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.header import check_header, lift_pillow_limit
from loaderlab.loaders.native import Native
from loaderlab.parity.check import check_all
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)


class Limits(Dataset[Any]):
    """Its items show whether Pillow has no limit in the process that makes them."""

    classes = ("limit", "no limit")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(Image.MAX_IMAGE_PIXELS is None)]), 0


def encoded(size: tuple[int, int]) -> np.ndarray:
    out = io.BytesIO()
    Image.new("L", size).save(out, "PNG")
    return np.frombuffer(out.getvalue(), np.uint8)


def test_our_own_limit_replaces_that_of_pillow() -> None:
    with pytest.raises(Image.DecompressionBombError):
        check_header(encoded((50, 50)), 10_000)
    lift_pillow_limit()
    check_header(encoded((50, 50)), 10_000)
    with pytest.raises(DataError, match="2,500 pixels are more than data.max_pixels=2400"):
        check_header(encoded((50, 50)), 2400)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pillow_has_no_limit_in_workers(method: str) -> None:
    split = custom.build(CustomData(target="tests.loaders.test_header:Limits")).train
    config = NativeLoader(num_workers=1, start_method=method)
    loader = Native(config, split, EpochPlan(2, 2, False, False), Cpu())
    try:
        assert [batch.inputs.tolist() for batch in loader.epoch(0)] == [[[1.0], [1.0]]]
    finally:
        loader.close()
    assert Image.MAX_IMAGE_PIXELS == 100  # in this process the entry points remove it


def test_a_run_removes_the_limit(
    make_config: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_store(*_: object, **__: object) -> None:
        raise UserError("no store")

    monkeypatch.setattr(run, "open_store", no_store)
    config = make_config()
    with pytest.raises(UserError, match="no store"):
        run.run(config, job.single(config, []), terminal)
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_parity_check_removes_the_limit(terminal: Terminal) -> None:
    check_all({}, terminal)
    assert Image.MAX_IMAGE_PIXELS is None
