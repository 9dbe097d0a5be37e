"""The work of a worker: build a whole batch directly in one tensor, or sample by sample.

These are datasets for ``torch.utils.data.DataLoader``. The batch sampler yields `Request` objects, which DataLoader passes to
``__getitems__`` unchanged. A sample that cannot be loaded is returned as a `Failure` value, because an exception would reach
the main process wrapped in the worker's frames.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from loaderlab.data.normalization import mean_and_std
from loaderlab.data.spec import (
    INT64,
    DataError,
    EncodedImages,
    ImageArrays,
    Normalization,
    Split,
    TransformSpec,
    Vectors,
)
from loaderlab.data.vectors import work
from loaderlab.loaders.broken import BrokenSamples, Unreadable
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.decode import CROP_ATTEMPTS, decoder, read_image, transform_into
from loaderlab.loaders.slot_writer import batch_memory


@dataclass(frozen=True)
class Request:
    """The ids of one batch and the seeds of its random draws, which do not depend on the number of workers."""

    ids: INT64
    seed: int
    epoch: int
    step: int

    def draws(self, spec: TransformSpec) -> tuple[np.ndarray, np.ndarray]:
        """The random numbers for the crops, (N, CROP_ATTEMPTS, 4) uniform in 0..1 for `crop_window` (empty if there is no random
        crop), and for the flips, (N,) bool."""
        rng, num_samples = np.random.default_rng([self.seed, self.epoch, self.step, 1]), len(self.ids)
        crops = rng.random((num_samples, CROP_ATTEMPTS, 4)) if spec.random_crop else np.empty((num_samples, 0, 4))
        return crops, rng.random(num_samples) < spec.flip


def requests(plan: EpochPlan, epoch: int) -> Iterator[Request]:
    """The plan's batches of one epoch."""
    for step, ids in enumerate(plan.batches(epoch)):
        yield Request(ids, plan.seed, epoch, step * plan.world_size + plan.rank)


@dataclass(frozen=True)
class Failure:
    """Why a batch could not be built."""

    reason: str


Fetched = Batch | Failure


def received(fetched: Fetched, skipped: BrokenSamples) -> Batch:
    """The batch that a fetcher sent to the training process. Its skipped samples are added to ``skipped``.

    Raises:
        DataError: the fetcher sent a failure, or too many samples are broken.
    """
    if isinstance(fetched, Failure):
        raise DataError(fetched.reason)
    if fetched.skipped:
        skipped.add(fetched.skipped)
    return fetched


class BatchFetcher(Dataset[Any]):
    """A dataset that returns a `Batch` or a `Failure` for a `Request`."""

    def __init__(self, batched: bool, broken: BrokenSamples | None = None) -> None:
        self._batched, self._broken = batched, broken

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("batches are requested with __getitems__")

    def __getitems__(self, request: Request) -> Fetched:
        try:
            return self._skip_broken(request) if self._broken is not None else self._build(request)
        except DataError as error:
            return Failure(str(error))

    def _build(self, request: Request) -> Batch:
        if self._batched:
            return self.build(request)
        return collate_one_by_one([self.build(single) for single in _singles(request)])

    def _skip_broken(self, request: Request) -> Batch:
        """The batch with replacements for broken samples. It is built again each time new broken samples are detected."""
        assert self._broken is not None
        while True:
            try:
                batch = self._build(replace(request, ids=self._broken.substituted(request.ids)))
            except Unreadable as error:
                self._broken.add(error.reasons)
            else:
                return replace(batch, skipped=self._broken.broken_in(request.ids))

    def build(self, request: Request) -> Batch:
        """The samples of a request in one batch.

        Raises:
            Unreadable: some samples cannot be loaded.
            DataError: the batch cannot be built.
        """
        raise NotImplementedError

    def stages_s(self, request: Request) -> tuple[float, float]:
        """Seconds to prepare the samples of a batch, and seconds to collate them."""
        began = time.perf_counter()
        if self._batched:
            self.build(request)
            return time.perf_counter() - began, 0.0
        samples = [self.build(single) for single in _singles(request)]
        prepared = time.perf_counter()
        collate_one_by_one(samples)
        return prepared - began, time.perf_counter() - prepared

    def stages(self, requests: Iterable[Request], seconds: float) -> Mapping[str, float] | None:
        """See `Loader.stages`; None if a sample cannot be loaded or there is none."""
        prepare = collate = 0.0
        count = 0
        until = time.perf_counter() + seconds
        for request in requests:
            try:
                spent = self.stages_s(request)
            except DataError:
                return None
            prepare, collate, count = prepare + spent[0], collate + spent[1], count + len(request.ids)
            if time.perf_counter() > until:
                break
        return {"prepare": prepare / count, "collate": collate / count} if count else None


def _singles(request: Request) -> Iterator[Request]:
    for position, index in enumerate(request.ids):
        yield Request(np.array([index]), request.seed, request.epoch, request.step * 1_000_003 + position)


def collate_one_by_one(samples: Sequence[Batch]) -> Batch:
    """One batch from single samples, which are stacked as usual."""
    assert all(sample.ids is not None for sample in samples)
    inputs = torch.stack([sample.inputs[0] for sample in samples])
    return Batch(
        inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs,
        torch.stack([sample.targets[0] for sample in samples]),
        torch.stack([sample.ids[0] for sample in samples if sample.ids is not None]),
    )


class ImageFetcher(BatchFetcher):
    """Batches of encoded images or of images in memory."""

    def __init__(self, split: Split, batched: bool, decoder_name: str) -> None:
        skip = split.on_error.skip and isinstance(split.source, EncodedImages)
        super().__init__(batched, BrokenSamples(split.on_error, len(split.source)) if skip else None)
        assert isinstance(split.source, (EncodedImages, ImageArrays))
        assert split.transform is not None
        self._source = split.source
        self._spec: TransformSpec = split.transform
        by_loader = split.normalization is not None and not split.normalization.on_device
        self._normalizes = split.normalization if by_loader else None
        self._max_pixels = split.on_error.max_pixels
        self._decoder_name = decoder_name
        self._decode = None if isinstance(split.source, ImageArrays) else decoder(decoder_name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decode": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._source, EncodedImages):
            self._decode = decoder(self._decoder_name)

    def _image(self, index: int) -> torch.Tensor:
        if isinstance(self._source, ImageArrays):
            return torch.from_numpy(self._source.images[index]).permute(2, 0, 1)
        assert self._decode is not None
        return read_image(self._source, index, self._decode, self._max_pixels)

    def _memory(self, size: tuple[int, ...], *, is_sent: bool, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        """Uninitialised images (N, C, H, W) with channels-last strides, from their size (N, H, W, C). Whole batches that are sent
        to the trainer are in shared memory."""
        images = batch_memory(size, dtype) if is_sent and self._batched else torch.empty(size, dtype=dtype)
        return images.permute(0, 3, 1, 2)

    def build(self, request: Request) -> Batch:
        ids, spec = request.ids, self._spec
        draws, flips = request.draws(spec)
        channels = 3 if isinstance(self._source, EncodedImages) else self._source.images.shape[-1]
        images = self._memory((len(ids), spec.size, spec.size, channels), is_sent=self._normalizes is None)
        unreadable: dict[int, str] = {}
        for position, index in enumerate(ids.tolist()):
            try:
                image = self._image(index)
            except DataError as error:
                unreadable[index] = str(error)
                if self._broken is None:
                    break
                continue
            transform_into(images[position], image, spec, draws[position], bool(flips[position]))
        if unreadable:
            raise Unreadable(unreadable)
        inputs = images
        if self._normalizes is not None:
            size = len(ids), spec.size, spec.size, channels
            inputs = normalize(images, self._normalizes, self._memory(size, is_sent=True, dtype=torch.float32))
        return Batch(inputs, torch.from_numpy(self._source.labels[ids]), torch.from_numpy(ids))


def normalize(images: torch.Tensor, normalization: Normalization, out: torch.Tensor | None = None) -> torch.Tensor:
    """Images (N, C, H, W) as float32 ``(x / 255 - mean) / std``, from uint8: in ``out``, or with the same strides."""
    mean, std = mean_and_std(normalization, images.device)
    floats = images.float() if out is None else out.copy_(images)
    return floats.mul_(1 / 255).sub_(mean).div_(std)


class VectorFetcher(BatchFetcher):
    """Batches of vectors in memory. The per-sample work is done sample by sample, also with ``batched``."""

    def __init__(self, source: Vectors, batched: bool) -> None:
        super().__init__(batched)
        self._source = source

    def build(self, request: Request) -> Batch:
        return Batch(
            torch.from_numpy(vectors_of(self._source, request.ids)),
            torch.from_numpy(self._source.labels[request.ids]),
            torch.from_numpy(request.ids),
        )

    def stages_s(self, request: Request) -> tuple[float, float]:
        total = sum(super().stages_s(request))
        inputs = self._source.inputs[request.ids]
        began = time.perf_counter()
        for sample in inputs:
            if self._source.work:
                work(sample, self._source.work)
        working = min(total, time.perf_counter() - began)
        return working, total - working  # taking rows out of memory counts as collation, not preparation


def vectors_of(source: Vectors, ids: INT64) -> np.ndarray:
    """Copies of the samples with these ids, (N, F) float32, after the per-sample work."""
    inputs = source.inputs.take(ids, 0)  # 20 % faster than [ids]
    if source.work:
        for position in range(len(inputs)):
            inputs[position] = work(inputs[position], source.work)
    return inputs
