"""The contract of all loaders: the plan of an epoch (order, shuffling, batches), the batch, the interface."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from loaderlab.config import UserError
from loaderlab.data.spec import INT64, Blocks
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.resolve import LoaderSettings

SMALL_BYTES = 2**16  # of a tensor that travels in the message itself


class LoaderError(UserError):
    """A loader cannot do what was asked, or died."""


@dataclass(frozen=True)
class EpochPlan:
    """Which samples make which batch: the same for every backend, from (seed, epoch) alone.

    Each sample comes once an epoch over all ranks together. Rank r of w gets every w-th id of the common order,
    so the ranks' shares are disjoint and their sizes differ by one at most.

    Attributes:
        num_samples: in the split.
        batch_size: samples of a batch of one rank.
        shuffle: a new order each epoch, see `blocks`; else ascending ids.
        drop_last: leave out the last batch where it is short. With several ranks every rank then makes the same
            number of steps.
        seed: of the permutations.
        blocks: how the samples lie in tar files, which are to be read from front to back: None for a permutation of all.
    """

    num_samples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    blocks: Blocks | None = None

    def ids(self, epoch: int) -> INT64:
        """This rank's sample ids in order, before the cut into batches: (n,) int64."""
        if self.shuffle:
            rng = np.random.default_rng([self.seed, epoch])
            order = self.blocks.shuffled(rng) if self.blocks is not None else rng.permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        return np.ascontiguousarray(order[self.rank :: self.world_size], np.int64)

    def batches(self, epoch: int) -> list[INT64]:
        """The ids of each batch; the last one is short unless it is dropped."""
        ids = self.ids(epoch)
        return [
            ids[start : start + self.batch_size]
            for start in range(0, self.num_steps * self.batch_size, self.batch_size)
        ]

    @property
    def num_steps(self) -> int:
        """Batches an epoch."""
        if self.drop_last:
            return self.num_samples // self.world_size // self.batch_size
        share = len(range(self.rank, self.num_samples, self.world_size))
        return -(-share // self.batch_size)


@dataclass
class Batch:
    """One step's samples.

    Attributes:
        inputs: images (N, C, H, W), uint8 0..255 with channels-last strides, or float32 normalised where the
            declaration says so; vectors (N, F) float32; a user's own as they are.
        targets: (N,) int64; a user's own as they are.
        ids: (N,) int64 on the host: positions in the split. None for an iterable dataset, which has no ids.
        skipped: samples that do not load, by id, with the reason: others of the batch stand in their places, ids too.

    Whoever takes a batch owns its tensors: no loader writes into them again. `replay` alone hands out the same
    tensors more than once; they are not to be written into.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    ids: torch.Tensor | None
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.targets)

    def __reduce__(self) -> tuple[Any, ...]:
        """From a worker to the training process: the inputs in shared memory, what is small in the message itself. A
        tensor costs a file descriptor and half a millisecond or more to hand over."""
        return _received, (self.inputs, _as_message(self.targets), _as_message(self.ids), self.skipped)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; DataLoader's pinning thread calls it by this name."""
        return Batch(self.inputs.pin_memory(), self.targets.pin_memory(), self.ids, self.skipped)


def _as_message(tensor: torch.Tensor | None) -> Any:
    return tensor.numpy() if tensor is not None and tensor.nbytes <= SMALL_BYTES else tensor


def _received(inputs: torch.Tensor, targets: Any, ids: Any, skipped: Mapping[int, str]) -> Batch:
    targets, ids = (torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in (targets, ids))
    return Batch(inputs, targets, ids, skipped)


@dataclass(frozen=True)
class Counted:
    """Samples that an iterable dataset has given in an epoch, those of a last batch that was dropped among them.

    Attributes:
        whole: the epoch has ended; else so many of it so far.
    """

    num_samples: int
    whole: bool


class Loader(abc.ABC):
    """Gives the batches of one split, epoch after epoch.

    An epoch may be broken off: the next call of `epoch` begins anew. One epoch at a time.
    """

    #: what it is able to do, as it is set up
    capabilities: LoaderCapabilities = LoaderCapabilities()
    #: its settings in force, for the record; None if there are none
    settings: LoaderSettings | None = None
    #: samples that did not load so far, by id, with the reason; others were taken in their place
    broken: Mapping[int, str] = MappingProxyType({})

    #: whether `num_steps` is sure: an iterable dataset's first epoch may have more or fewer than its ``__len__`` says
    knows_length: bool = True
    #: of an iterable dataset: what its last epoch has given
    counted: Counted | None = None

    @property
    def parallel(self) -> int:
        """Batches that are in the making at the same time."""
        return self.capabilities.parallel

    @property
    def lookahead(self) -> int:
        """Batches that are prepared ahead of the consumer."""
        return self.capabilities.lookahead

    @property
    @abc.abstractmethod
    def num_steps(self) -> int | None:
        """Batches an epoch; of an iterable dataset those of its last whole epoch, before the first one what it says of itself
        or None."""

    @abc.abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0.

        Raises:
            DataError: while iterating: a sample does not load; the message names it.
            LoaderError: while iterating: the loader itself broke.
        """

    @abc.abstractmethod
    def transfer(self, batch: Batch) -> Batch:
        """The batch on the device: ids stay on the host. May return before an asynchronous copy has ended, which
        the device's current stream then waits for."""

    def stages(self, seconds: float) -> Mapping[str, float] | None:
        """Seconds per sample, in this process and without any overlap, that it takes to ``prepare`` samples (read,
        decode, transform) and to ``collate`` them into a batch, over the first batches of ``seconds``; None where the
        backend cannot tell."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Ends workers and threads and frees what they held. Again is harmless."""
