"""How samples reach the device: one file per backend. All follow the contract in `loaderlab.loaders.contract`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loaderlab.config import (
    DaliLoader,
    LoaderConfig,
    NativeLoader,
    ReplayLoader,
    ResidentLoader,
    SpdlLoader,
    choice,
    refuse,
)

if TYPE_CHECKING:  # heavy: a backend is imported when it is built
    from loaderlab.data.spec import Split
    from loaderlab.device.base import Device
    from loaderlab.loaders.contract import EpochPlan, Loader

WHOLE_BATCHES = (NativeLoader, ReplayLoader)  # the loaders of whole batches, as `data.collate` returns them


def build(config: LoaderConfig, split: Split, plan: EpochPlan, device: Device) -> Loader:
    """The loader of a configuration.

    Raises:
        LoaderError: the backend is not installed, or cannot load this split with these settings.
    """
    if split.whole_batches and not isinstance(config, WHOLE_BATCHES):
        from loaderlab.loaders.contract import LoaderError

        allowed = "cannot load batches of a task of your own (model.step, data.collate)"
        raise refuse("loader", choice(config), allowed, "loader=native", is_example=False, error=LoaderError)
    match config:
        case NativeLoader():
            from loaderlab.loaders.native import Native

            return Native(config, split, plan, device)
        case SpdlLoader():
            from loaderlab.loaders.spdl import Spdl

            return Spdl(config, split, plan, device)
        case DaliLoader():
            from loaderlab.loaders.dali import Dali

            return Dali(config, split, plan, device)
        case ResidentLoader():
            from loaderlab.loaders.resident import Resident

            return Resident(config, split, plan, device)
        case ReplayLoader():
            from loaderlab.loaders.replay import Replay

            return Replay(config, split, plan, device)
    raise AssertionError(config)
