"""The replay loader: a few real batches, loaded once to the device and served again and again. No loader can be faster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from loaderlab.config import NativeLoader, ReplayLoader, refuse
from loaderlab.data.spec import Split
from loaderlab.device.base import Device
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.native import Native
from loaderlab.loaders.resolve import ReplaySettings


class Replay(Loader):
    """The replay backend. See `Loader` for the contract. It repeats its batches, so an epoch does not contain each sample once,
    and the trained model is useless. Its speed is the ceiling."""

    def __init__(self, config: ReplayLoader, split: Split, plan: EpochPlan, device: Device) -> None:
        # Pillow reads all formats, and gives the same pixels as the other decoders
        source = Native(NativeLoader(num_workers=0, decoder="pillow"), split, plan, device)
        if source.num_steps is None:
            allowed = "needs the length of an epoch, and this iterable dataset has no length"
            raise refuse("loader", "replay", allowed, "loader=native", is_example=False, error=LoaderError)
        self._num_steps = source.num_steps
        try:
            batches = itertools.islice(source.epoch(0), config.num_batches)
            self._resident = [source.transfer(batch) for batch in batches if batch.num_items == plan.batch_size]
        finally:
            source.close()
        if not self._resident:
            allowed = f"the split has no full batch of {plan.batch_size}"
            raise refuse("loader", "replay", allowed, f"batch_size={plan.num_samples}", error=LoaderError)
        device.synchronize()
        self.capabilities = LoaderCapabilities(loads_nothing=True)
        self.settings = ReplaySettings(len(self._resident))
        if device.capabilities.emulated:
            self.notes = ("loader=replay: an emulated accelerator has no memory, so the batches stay in host memory",)

    @property
    def num_steps(self) -> int:
        return self._num_steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        return itertools.islice(itertools.cycle(self._resident), self._num_steps)

    def transfer(self, batch: Batch) -> Batch:
        return batch

    def close(self) -> None:
        self._resident = []
