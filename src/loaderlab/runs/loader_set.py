"""The loaders of one run, built and closed together, and the samples that they skipped."""

from __future__ import annotations

from loaderlab import loaders
from loaderlab.config import NativeLoader, ReplayLoader, TrainConfig, check_batch_share
from loaderlab.data.spec import DataSpec, Split
from loaderlab.device.base import Device
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.system.causes import described
from loaderlab.system.ranks import SINGLE, Ranks
from loaderlab.system.terminal import Terminal

MAX_REPORTED = 10  # skipped samples, on the terminal


def validation_plan(split: Split, batch_size: int, ranks: Ranks | EpochPlan) -> EpochPlan:
    """All validation samples of a rank, in order."""
    if ranks.world_size > 1:  # batches of one sample may leave out the last ones, so that all ranks train equally long
        batch_size = max(2, batch_size)
    return EpochPlan(split.num_samples or 0, batch_size, False, False, rank=ranks.rank, world_size=ranks.world_size)


class LoaderSet:
    """Builds the loaders of a run, or of one rank, and closes them.

    Attributes:
        skipped: the reasons why samples were skipped, each once, in order of time.
    """

    def __init__(self, config: TrainConfig, terminal: Terminal, ranks: Ranks = SINGLE) -> None:
        self._config, self._terminal, self._ranks = config, terminal, ranks
        self._loaders: list[Loader] = []
        self.skipped: list[str] = []

    def plan(self, spec: DataSpec) -> EpochPlan:
        """The training batches.

        Raises:
            TooFewSamples: the set is smaller than a batch, and short batches are dropped.
        """
        config, num_train = self._config, spec.train.num_samples
        ranks = self._ranks
        if num_train is not None and not spec.train.num_claimed:
            check_batch_share(
                num_train, ranks.world_size, config.batch_size, config.launch.name, drop_last=config.drop_last
            )
        return EpochPlan(
            num_train or 0,
            config.batch_size,
            True,
            config.drop_last,
            config.effective_seed,
            ranks.rank,
            ranks.world_size,
            spec.train.blocks,
            config.measure.epoch_steps,
        )

    def training(self, spec: DataSpec, plan: EpochPlan, device: Device) -> Loader:
        """A loader of the training samples."""
        return self._register(loaders.build(self._config.loader, spec.train, plan, device))

    def validation(self, spec: DataSpec, device: Device) -> Loader | None:
        """A loader of the validation samples in order; None without an evaluation."""
        config = self._config
        if not config.evaluates or spec.val is None:
            return None
        plan = validation_plan(spec.val, config.batch_size, self._ranks)
        # replay is a ceiling for training only: the model is still evaluated on all validation samples
        backend = NativeLoader(decoder="pillow") if isinstance(config.loader, ReplayLoader) else config.loader
        return self._register(loaders.build(backend, spec.val, plan, device))

    def _register(self, loader: Loader) -> Loader:
        self._loaders.append(loader)
        return loader

    def report_skipped(self) -> None:
        """Warns of the samples that were skipped since the last call."""
        for loader in self._loaders:
            for reason in loader.broken.values():
                if reason in self.skipped:
                    continue
                self.skipped.append(reason)
                if len(self.skipped) <= MAX_REPORTED:
                    self._terminal.warn(f"skipped: {reason}")
                elif len(self.skipped) == MAX_REPORTED + 1:
                    self._terminal.warn("more samples were skipped: the run's artifact broken.txt lists all of them")

    def close(self) -> None:
        """Ends the loaders' workers and threads."""
        for loader in self._loaders:
            try:
                loader.close()
            except Exception as error:  # a dead worker: still close the other loaders and write the record
                self._terminal.warn(f"a loader could not be closed: {described(error)}")
