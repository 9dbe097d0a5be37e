"""The contract of all loaders: the plan of an epoch (order, shuffling, batches), the batch, the interface."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from loaderlab.config import UserError
from loaderlab.data.spec import INT64, Blocks
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.packed import Packed, pack, plain_memory
from loaderlab.loaders.resolve import LoaderSettings

SMALL_BYTES = 2**16  # a tensor up to this size is sent in the message itself


class LoaderError(UserError):
    """A loader cannot work with these settings, or has failed."""


@dataclass(frozen=True)
class EpochPlan:
    """The samples of each batch. They depend only on (seed, epoch), so they are the same for every backend.

    Each sample comes once per epoch, over all ranks together. Rank r of w gets every w-th id of the common order, so the
    ranks' shares are disjoint and their sizes differ by at most one. Every rank has the same number of batches: if a rank would
    have one less because its share is one sample smaller, its last full batch gives one sample to a batch of its own.

    Attributes:
        num_samples: in the split.
        batch_size: samples per batch of one rank.
        shuffle: a new order each epoch, see `blocks`; otherwise ascending ids.
        drop_last: leave out the last batch if it is short.
        seed: of the permutations.
        blocks: the position of samples in tar files, which are read from start to end; None to shuffle all samples.
        max_steps: the epoch ends after this many batches, even if there are more samples; None: no limit.
    """

    num_samples: int
    batch_size: int
    shuffle: bool
    drop_last: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    blocks: Blocks | None = None
    max_steps: int | None = None

    def ids(self, epoch: int) -> INT64:
        """This rank's sample ids in order, not yet divided into batches: (n,) int64."""
        if self.shuffle:
            rng = np.random.default_rng([self.seed, epoch])
            order = self.blocks.shuffled(rng) if self.blocks is not None else rng.permutation(self.num_samples)
        else:
            order = np.arange(self.num_samples)
        return np.ascontiguousarray(order[self.rank :: self.world_size], np.int64)

    def batches(self, epoch: int) -> list[INT64]:
        """The ids of each batch. The last batch may be short, unless it is dropped."""
        ids = self.ids(epoch)
        starts = [step * self.batch_size for step in range(self.all_steps)]
        if starts and starts[-1] == len(ids):
            starts[-1] -= 1
        ends = [*starts[1:], len(ids)][: len(starts)]
        spans = list(zip(starts, ends, strict=True))[: self.max_steps]
        return [ids[start : min(end, start + self.batch_size)] for start, end in spans]

    @property
    def num_steps(self) -> int:
        """Batches per epoch."""
        return self.all_steps if self.max_steps is None else min(self.all_steps, self.max_steps)

    @property
    def all_steps(self) -> int:
        """Batches of all samples, without `max_steps`."""
        smallest = self.num_samples // self.world_size  # share of a rank
        if self.drop_last:
            return smallest // self.batch_size
        if smallest == 0:  # fewer samples than ranks: enough for an evaluation, where ranks do not wait for each other
            return int(self.rank < self.num_samples)
        largest = -(-self.num_samples // self.world_size)
        num_steps = -(-largest // self.batch_size)
        # a batch of one sample cannot be divided: then the largest shares lose their last sample
        return num_steps if self.batch_size > 1 or largest == smallest else smallest

    @property
    def last_batch(self) -> int:
        """The number of samples in this rank's last batch of an epoch; 0 if it has none."""
        share = len(range(self.rank, self.num_samples, self.world_size))
        if not self.num_steps or self.drop_last:
            return self.batch_size if self.num_steps else 0
        if self.num_steps < self.all_steps:  # the batch before the last of all may have given it a sample
            gives = self.num_steps == self.all_steps - 1 and share == self.num_steps * self.batch_size
            return self.batch_size - gives
        return min(self.batch_size, max(1, share - (self.num_steps - 1) * self.batch_size))


@dataclass
class Batch:
    """One step's samples.

    Attributes:
        inputs: images (N, C, H, W), uint8 0..255 with channels-last strides, or normalised float32 if the configuration
            says so; vectors (N, F) float32; a user's own inputs unchanged. A whole batch of ``data.collate``, of any nesting, may be
            `Packed` before it is transferred.
        targets: (N,) int64; a user's own targets unchanged. None if ``inputs`` is a whole batch.
        ids: (N,) int64 on the host: positions in the split. None for an iterable dataset, which has no ids.
        skipped: samples that could not be loaded, by id, with the reason. Other samples of the batch replace them, also in
            ``ids``.
        counted: of a whole batch: the dataset's items in it, and its samples as ``data.count`` counts them.

    The consumer of a batch owns its tensors: no loader writes into them again while a tensor, an array or a view refers to their
    memory (`loaderlab.loaders.slots`). Only `replay` returns the same tensors more
    than once; they must not be modified.
    """

    inputs: Any
    targets: Any
    ids: torch.Tensor | None
    skipped: Mapping[int, str] = field(default_factory=dict)
    counted: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.targets) if self.counted is None else self.counted[1]

    @property
    def num_items(self) -> int:
        """The number of the dataset's items in it; `len` is the number of samples."""
        return len(self.targets) if self.counted is None else self.counted[0]

    @property
    def is_whole(self) -> bool:
        """Whether ``inputs`` is a whole batch of ``data.collate``."""
        return self.counted is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """Sends the inputs in shared memory and small tensors in the message itself: a tensor in shared memory costs a file
        descriptor and half a millisecond or more."""
        return _received, (self.inputs, *small_parts(self))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory. DataLoader's pinning thread calls a method of this name."""
        if self.is_whole:
            inputs = self.inputs if isinstance(self.inputs, Packed) else pack(self.inputs, plain_memory)
            return replace(self, inputs=inputs.pin_memory())
        return Batch(self.inputs.pin_memory(), self.targets.pin_memory(), self.ids, self.skipped)


Parts = tuple[Any, Any, Mapping[int, str], tuple[int, int] | None]


def small_parts(batch: Batch) -> Parts:
    """What a message about a batch contains besides its inputs: targets, ids, skipped, counted. Small tensors are sent as bytes."""
    return _as_bytes(batch.targets), _as_bytes(batch.ids), batch.skipped, batch.counted


def whole_parts(parts: Parts) -> Parts:
    """The targets, ids, skipped samples and counts of a message."""
    targets, ids = (_from_bytes(part) if isinstance(part, bytes) else part for part in parts[:2])
    return targets, ids, parts[2], parts[3]


def _as_bytes(tensor: torch.Tensor | None) -> Any:
    is_small = (
        tensor is not None and tensor.dtype == torch.int64 and tensor.ndim == 1 and 0 < tensor.nbytes <= SMALL_BYTES
    )
    return tensor.numpy().tobytes() if tensor is not None and is_small else tensor


def _from_bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.int64)  # a copy, because bytes cannot be written to


def _received(inputs: Any, *parts: Any) -> Batch:
    return Batch(inputs, *whole_parts(parts))


@dataclass(frozen=True)
class Counted:
    """The number of samples that an iterable dataset yielded in an epoch, including those of a dropped last batch.

    Attributes:
        whole: the epoch has ended; otherwise this is the number so far.
    """

    num_samples: int
    whole: bool


@dataclass(frozen=True)
class SharedBatches:
    """The batches that worker processes keep in shared memory at the same time.

    Attributes:
        most: their number at most, if the consumer keeps up to three.
        in_dev_shm: each is in new shared memory in /dev/shm, whose size is limited; otherwise in memory files.
    """

    most: int
    in_dev_shm: bool


class Loader(abc.ABC):
    """Delivers the batches of one split, epoch after epoch.

    An epoch may be stopped early; the next call of `epoch` starts a new one. Only one epoch can run at a time.
    """

    #: its capabilities with the current settings
    capabilities: LoaderCapabilities = LoaderCapabilities()
    #: its effective settings, for the record; None if it has none
    settings: LoaderSettings | None = None
    #: what a user must know about these settings, one line each
    notes: tuple[str, ...] = ()
    #: samples that could not be loaded so far, by id, with the reason; other samples replaced them
    broken: Mapping[int, str] = MappingProxyType({})

    #: None if it has no worker processes
    shared_batches: SharedBatches | None = None

    #: whether `num_steps` is exact: an iterable dataset's first epoch may have more or fewer than its ``__len__`` says
    knows_length: bool = True
    #: the number of samples that an iterable dataset yielded in its last epoch; None for other datasets
    counted: Counted | None = None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Its worker processes that run now."""
        return ()

    @property
    def parallel(self) -> int:
        """Batches that are built at the same time."""
        return self.capabilities.parallel

    @property
    def lookahead(self) -> int:
        """Batches that are prepared ahead of the consumer."""
        return self.capabilities.lookahead

    @property
    @abc.abstractmethod
    def num_steps(self) -> int | None:
        """Batches per epoch. For an iterable dataset, the number in its last complete epoch; before that, the number by its
        ``__len__``, or None."""

    @abc.abstractmethod
    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0. What their inputs are before `transfer` is the loader's own affair.

        It queues no work on the step's stream: that would look as if the host were waiting for data.

        Raises:
            DataError: while iterating: a sample cannot be loaded; the message names it.
            LoaderError: while iterating: the loader itself failed.
        """

    @abc.abstractmethod
    def transfer(self, batch: Batch) -> Batch:
        """The batch on the device; ids stay on the host. May return before an asynchronous copy has ended. The device's
        current stream waits for that copy."""

    def stages(self, seconds: float) -> Mapping[str, float] | None:
        """Seconds per sample, measured in this process without overlap, to ``prepare`` samples (read, decode, transform) and
        to ``collate`` them into a batch. Measures batches for ``seconds``, with as many torch threads as a worker has. None if
        the backend cannot separate the two."""
        return None

    def call_in_workers(self, begin: Callable[[int], None]) -> None:
        """Calls ``begin`` in each worker process that starts from now on, with the worker's number, before its first batch. It must be
        picklable. Only a loader with worker processes has this method (`Makers.are_processes`)."""
        raise AssertionError(type(self).__name__)

    @abc.abstractmethod
    def close(self) -> None:
        """Ends workers and threads and frees their memory. May be called again."""
