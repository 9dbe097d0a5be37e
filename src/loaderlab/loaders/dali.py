"""The DALI loader: NVIDIA DALI in the order of the plan. An external source gives paths and ids; the pipeline reads, decodes and
crops.

DALI's own file reader is not used: it shuffles only within a buffer, and its epochs are not exact. `_Feed` gives DALI the
batches of the plan. It runs in the training process and costs microseconds for files.
"""

from __future__ import annotations

import gc
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack

from loaderlab.config import DaliLoader, HostLoader, refuse
from loaderlab.data.spec import INT64, DataError, EncodedImages, ImageArrays, ImageFiles, Split, UserItems, Vectors
from loaderlab.data.tree import EXTENSIONS
from loaderlab.device.base import Device, Event
from loaderlab.loaders import (
    dali_graph,
    dali_guard,
    dali_single,
)  # first: they raise a clear error if DALI is not installed
from loaderlab.loaders.broken import BrokenSamples, Unreadable
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.loaders.fetch import Request as ItemRequest
from loaderlab.loaders.fetch import vectors_of
from loaderlab.loaders.fetchers import check_formats
from loaderlab.loaders.resolve import DaliSettings, dali_capabilities, dali_settings, needs_gpu
from loaderlab.loaders.user_items import UserFetcher
from loaderlab.system.causes import reason

READS = EXTENSIONS - {".avif", ".gif"}


class _Feed:
    """The external source. Each call returns the arrays of the plan's next batch; StopIteration ends the epoch."""

    def __init__(self, split: Split, plan: EpochPlan, skipped: BrokenSamples) -> None:
        self._source, self._plan, self._skipped = split.source, plan, skipped
        self._max_pixels = split.on_error.max_pixels
        self._batches: Iterator[INT64] = iter(())
        self._user = UserFetcher(split.source, batched=True) if isinstance(split.source, UserItems) else None
        self.in_flight: deque[INT64] = deque()  # ids of the batches that are inside the pipeline
        self.failure: DataError | None = None  # DALI's own error has only the text of it, not its causes

    def start(self, epoch: int, step: int) -> None:
        self._batches = itertools.islice(self._plan.batches(epoch), step, None)
        self.in_flight.clear()

    def __call__(self) -> tuple[Any, ...]:
        ids = self._skipped.substituted(next(self._batches))
        self.in_flight.append(ids)
        try:
            return self._payload(ids)
        except DataError as error:
            self.failure = error
            raise

    def _payload(self, ids: INT64) -> tuple[Any, ...]:
        match self._source:
            case ImageFiles(paths=paths, labels=labels):
                return [np.frombuffer(paths.encoded(i), np.uint8) for i in ids.tolist()], labels[ids], ids
            case EncodedImages(labels=labels):
                read, limit = self._source.read, self._max_pixels
                return [dali_guard.drop_unscaled_tiff(limit, read(i)) for i in ids.tolist()], labels[ids], ids
            case ImageArrays(images=images, labels=labels):
                return images[ids], labels[ids], ids
            case Vectors(labels=labels):
                return vectors_of(self._source, ids), labels[ids], ids
            case UserItems():
                assert self._user is not None
                batch = self._user.build(ItemRequest(ids, 0, 0, 0))
                return batch.inputs.numpy(), batch.targets.numpy(), ids


class Dali(Loader):
    """The DALI backend. See `Loader` for the contract.

    Raises:
        LoaderError: an iterable dataset, a file that DALI does not read, or ``mixed`` decoding without a GPU.
    """

    settings: DaliSettings

    def __init__(self, config: DaliLoader, split: Split, plan: EpochPlan, device: Device) -> None:
        self._split, self._plan, self._device, self._config = split, plan, device, config
        if why := needs_gpu(config, device):
            raise LoaderError(why)
        source = split.source
        if isinstance(source, UserItems) and source.iterable:
            allowed = "DALI reads samples by id, and an iterable dataset has no ids"
            raise refuse("loader", "dali", allowed, "loader=native", is_example=False, error=LoaderError)
        if isinstance(source, UserItems):
            self._refuse_non_numpy_items(source)
        if isinstance(source, ImageFiles):
            check_formats(source, READS, "loader=dali", "Type: loader=native, with loader.decoder=pillow if necessary")
        self.settings, self.notes = self._settings()
        self.capabilities = dali_capabilities(self.settings, device)
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        self._feed = _Feed(split, plan, self._skipped)
        self._pipeline: Any = None
        self._num_built = 0
        self._exact = False  # whether the pipeline checks headers exactly: see `dali_guard`
        self._clean = True  # the pipeline contains no batch of an earlier epoch
        # DALI copies its batches to a GPU from pinned memory on a stream of its own; here an emulated copy does the same
        self._copy = DeviceCopy(HostLoader(), device) if device.capabilities.emulated else None
        self._in_copy: deque[tuple[Event, list[torch.Tensor]]] = deque()  # DALI's tensors until they are copied

    def _settings(self) -> tuple[DaliSettings, tuple[str, ...]]:
        """The effective settings, and notes about them."""
        settings = dali_settings(self._config, self._split, self._device)
        if settings.decode != "mixed":
            return settings, ()
        decoding = dali_single.jpeg_decoding(self._decoder(settings))
        settings = replace(settings, jpeg_decoder=decoding.processor, jpeg_difference_levels=decoding.mean_levels)
        return settings, (decoding.note,) if decoding.note else ()

    def _decoder(self, settings: DaliSettings) -> dali_single.DecoderChoice:
        return dali_single.DecoderChoice(settings.decode, self._config.hw_decoder_load, self._device_id)

    @property
    def _device_id(self) -> int | None:
        return self._device.torch_device.index  # None: a pipeline without a GPU

    @staticmethod
    def _refuse_non_numpy_items(source: UserItems) -> None:
        batch = UserFetcher(source, batched=True).build(ItemRequest(np.zeros(1, np.int64), 0, 0, 0))
        for name, tensor in (("inputs", batch.inputs), ("targets", batch.targets)):
            try:
                tensor.numpy()
            except TypeError as error:
                allowed = f"needs the {name} of a dataset as NumPy arrays: {reason(error)}"
                raise refuse("loader", "dali", allowed, "loader=native", is_example=False, error=LoaderError) from error

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    def _build(self, epoch: int) -> Any:
        seed = self._plan.seed if self._config.pipeline_seed is None else self._config.pipeline_seed
        self._num_built += 1
        pipeline = dali_graph.compose(
            self._split,
            self._config,
            self.settings.decode,
            self._feed,
            batch_size=min(self._plan.batch_size, max(1, self._plan.num_samples)),
            num_threads=self.settings.num_threads,
            device_id=self._device_id,
            exact=self._exact,
            # a pipeline that is built again, or in a resumed run, must not repeat the first epoch's crops
            seed=int(np.random.SeedSequence([seed, self._plan.rank, epoch, self._num_built]).generate_state(1)[0] >> 1),
        )
        return dali_graph.build(pipeline)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        if not self._clean:
            self._drop_pipeline()  # it contains batches of an epoch that was stopped early
        self._feed.start(epoch, 0)
        step = 0
        while step < self.num_steps:
            if self._pipeline is None:
                self._pipeline = self._build(epoch)
            self._clean = False
            failure: RuntimeError | OSError | None = None
            try:
                # returns when the batch is ready, so waiting for the GPU's decoder counts as data wait; the next batches
                # are built meanwhile
                inputs, targets, ids, within = self._pipeline.run()
                if not np.asarray(within.as_array()).all():
                    raise RuntimeError("an image was not decoded because of its header")
            except (RuntimeError, OSError) as error:  # OSError comes from `_Feed`, which reads tar files
                failure = error
            if failure is not None:  # outside the handler, so DALI's error is not the cause of what is raised here
                self._drop_pipeline()  # after an error DALI's pipeline is invalid
                self._handle_failure(failure)
                self._feed.start(epoch, step)
                continue
            self._feed.in_flight.popleft()
            inputs, targets = (self._view(output) for output in (inputs, targets))
            if self._split.transform is not None:
                inputs = inputs.permute(0, 3, 1, 2)
            step += 1
            yield Batch(inputs, targets, torch.from_numpy(np.array(ids.as_array())))
        if step:
            self._rewind()

    def _view(self, output: Any) -> torch.Tensor:
        """The pipeline's output without a copy."""
        if self._device_id is None:
            return torch.utils.dlpack.from_dlpack(output.as_tensor())
        # -1: do not wait for a stream: the batch is ready, and DALI's stream is already working on the next batches
        return torch.utils.dlpack.from_dlpack(output.as_tensor().__dlpack__(stream=-1))

    def _rewind(self) -> None:
        """Resets the pipeline at the end of an epoch, so that the next one can begin."""
        try:
            self._pipeline.run()
        except StopIteration:
            self._pipeline.reset()
            self._clean = True
            return
        raise AssertionError("the pipeline returned more batches than the plan has")

    def _handle_failure(self, error: RuntimeError | OSError) -> None:
        """Adds the samples that made the pipeline fail to the broken ones, so that they are skipped from now on.

        Raises:
            DataError: samples cannot be loaded, and may not be skipped or are too many.
            LoaderError: the pipeline failed for another reason.
        """
        source, on_error = self._split.source, self._split.on_error
        if isinstance(source, EncodedImages):
            for ids in self._feed.in_flight:
                choice = self._decoder(self.settings)
                if reasons := dali_single.undecodable(source, ids.tolist(), on_error.max_pixels, choice):
                    if not on_error.skip:
                        raise Unreadable(reasons) from None
                    self._skipped.add(reasons)
                    return
            if not self._exact:  # then the cheap check may have refused a good image
                self._exact = True
                return
        elif isinstance(source, UserItems) and self._feed.failure is not None:
            raise self._feed.failure
        raise LoaderError(f"loader=dali: the pipeline failed: {dali_single.reason(error)}") from None

    def transfer(self, batch: Batch) -> Batch:
        """On a GPU a copy within its memory, which the consumer may free at any time.

        DALI reuses freed memory at once, on its own stream, which does not wait for torch's queued reads. So DALI's tensors
        are kept until the copy has been made.
        """
        if self._copy is not None:
            return self._copy(batch)
        if self._device_id is None:
            return batch
        views = [batch.inputs, batch.targets]
        inputs, targets = (view.clone() for view in views)
        copied = self._device.event()
        copied.record(self._device.current_stream())
        self._in_copy.append((copied, views))
        while self._in_copy and self._in_copy[0][0].query():
            self._in_copy.popleft()
        return replace(batch, inputs=inputs, targets=targets)

    def close(self) -> None:
        self._drop_pipeline()
        dali_graph.release_memory()

    def _drop_pipeline(self) -> None:
        with suppress(RuntimeError):  # a failed device reads nothing more, and its first error has been raised
            for copied, _ in self._in_copy:
                copied.synchronize()
        self._in_copy.clear()
        self._pipeline, self._clean = None, True
        gc.collect()  # the pipeline and its operators refer to each other
