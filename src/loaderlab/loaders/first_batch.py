"""The first batch of a split, built in this process: what a user's own task gets, before the run starts."""

from __future__ import annotations

from contextlib import closing

from loaderlab.config import NativeLoader
from loaderlab.data.spec import DataError, Split
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.loaders.nesting import tensors


def first_batch(split: Split, plan: EpochPlan, device: Device) -> Batch:
    """The first batch of an epoch, on the device.

    Raises:
        DataError: it cannot be built, or there is none.
    """
    with closing(Native(NativeLoader(num_workers=0, decoder="pillow"), split, plan, device)) as loader:
        for batch in loader.epoch(0):
            return loader.transfer(batch)
    raise DataError("data: there is no batch. Type: a smaller batch_size, or drop_last=false")


def batch_bytes(batch: Batch) -> int:
    """The memory of a batch's tensors."""
    return sum(tensor.nbytes for tensor in tensors((batch.inputs, batch.targets)))
