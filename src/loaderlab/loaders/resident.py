"""The resident loader: the whole set stays in the device's memory. For small data it has the least work per batch.

Encoded images are decoded once, when the loader is built. After that, a batch is selected by its ids on the device, where its
images are cropped, flipped and resized together, with the same random numbers as in the native loader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from loaderlab.config import ResidentLoader, UserError, refuse
from loaderlab.data.spec import (
    INT64,
    DataError,
    EncodedImages,
    ImageArrays,
    ImageFiles,
    Split,
    TransformSpec,
    UserItems,
    Vectors,
)
from loaderlab.device.base import Device
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.capabilities import LoaderCapabilities
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.decode import center_window, crop_window, decoder, image_size, read_image
from loaderlab.loaders.fetch import Request, normalize, requests
from loaderlab.loaders.fetchers import check_decodable
from loaderlab.loaders.resample import axis_weights, resample
from loaderlab.loaders.resolve import ResidentSettings
from loaderlab.system.machine import available_cores

T = TypeVar("T")
KEPT_FREE = 0.25  # share of the free memory for the model, its gradients and the batches
CHUNK = 1024  # images that are copied at once
IN_HOST_MEMORY = (
    "loader=resident: an emulated accelerator has no memory, so the samples stay in host memory, and the host's cores prepare "
    "the batches"
)
ID = 8  # column of the image's id, after the windows of its rows and columns


class Resident(Loader):
    """The resident backend. See `Loader` for the contract.

    Raises:
        LoaderError: the samples do not fit in the device's memory, or may differ between epochs.
        DataError: an image cannot be decoded. This is raised here, not while iterating.
    """

    def __init__(self, config: ResidentLoader, split: Split, plan: EpochPlan, device: Device) -> None:
        self._split, self._plan, self._device = split, plan, device
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        source = split.source
        match source:
            case UserItems():
                raise _refusal(
                    "the items of your own dataset may differ each time they are read, but only their first values would be "
                    "used"
                )
            case Vectors(work=work) if work:
                raise _refusal(
                    f"data.work={work} means work on each sample in each epoch, but samples that stay on the device are "
                    "prepared only once",
                    "loader=native, or data.work=0",
                )
            case Vectors():
                if device.torch_device.type != "cpu":  # otherwise they are in memory already
                    self._check_memory(source.inputs.nbytes)
                self._inputs: torch.Tensor | None = torch.from_numpy(source.inputs).to(device.torch_device)
            case ImageArrays():
                num_images, height, width, channels = source.images.shape
                self._sizes: INT64 = np.full((num_images, 2), (height, width))
                images = self._images(channels)
                for start in range(0, num_images, CHUNK):
                    chunk = torch.from_numpy(source.images[start : start + CHUNK])
                    images[start : start + CHUNK] = chunk.to(device.torch_device).permute(0, 1, 3, 2)
            case EncodedImages():
                if isinstance(source, ImageFiles):
                    check_decodable(source, config.decoder)
                self._load(source, config.decoder)
        self._host_labels = source.labels
        self._labels = torch.from_numpy(source.labels).to(device.torch_device)
        assert self._inputs is not None
        self.settings = ResidentSettings(config.decoder, round(self._inputs.nbytes / 2**20, 1))
        self.capabilities = LoaderCapabilities(keeps_samples_on_device=True, prepares_on_device=True)
        if device.capabilities.emulated:
            self.notes = (IN_HOST_MEMORY,)

    def _images(self, channels: int) -> torch.Tensor:
        """An empty tensor (N, height, C, width) for the images, padded to the largest size. `resample` needs this order."""
        (height, width), spec = self._sizes.max(0).tolist(), self._split.transform
        assert spec is not None
        # memory of a batch: images as bytes and as floats, half-resized images, weights and their intermediate values
        floats = channels * height * (width + 2 * spec.size) + 8 * spec.size * (height + width)
        batch = self._plan.batch_size * (channels * height * width + 4 * floats)
        self._check_memory(
            len(self._sizes) * channels * height * width + batch, f", each padded to {height} x {width} pixels"
        )
        self._inputs = torch.empty(
            (len(self._sizes), height, channels, width), dtype=torch.uint8, device=self._device.torch_device
        )
        return self._inputs

    def _check_memory(self, num_bytes: int, padded: str = "") -> None:
        """Raises:
        LoaderError: so many bytes do not fit in the device's free memory.
        """
        free = self._device.free_bytes
        if num_bytes > (1 - KEPT_FREE) * free:
            raise _refusal(
                f"{self._split.num_samples} samples need {num_bytes / 2**30:.3g} GiB{padded}; {self._device} has "
                f"{free / 2**30:.3g} GiB free, and a quarter of it is reserved for the model"
            )

    def _load(self, encoded: EncodedImages, decoder_name: str) -> None:
        """Reads the encoded images twice: first their sizes, to allocate memory, then their pixels."""
        decode, on_error = decoder(decoder_name), self._split.on_error

        def each(task: Callable[[int], T]) -> list[T | None]:
            """The result of the task for each sample; None for samples that cannot be loaded."""

            def attempt(index: int) -> T | None:
                try:
                    return None if index in self.broken else task(index)
                except DataError as error:
                    if not on_error.skip:
                        raise
                    self._skipped.add({index: str(error)})
                    return None

            return list(threads.map(attempt, range(len(encoded))))

        def store(index: int) -> None:
            image = read_image(encoded, index, decode, on_error.max_pixels)
            _, height, width = image.shape
            if (height, width) != tuple(self._sizes[index].tolist()):
                raise DataError(
                    f"{encoded.name(index)}: decodes to {height} x {width} pixels, but its header gives another size"
                )
            images[index, :height, :, :width] = image.permute(1, 0, 2)

        with ThreadPoolExecutor(available_cores()) as threads:
            sizes = each(lambda index: read_image(encoded, index, image_size, on_error.max_pixels))
            self._sizes = np.array([size or (1, 1) for size in sizes], np.int64)
            images = self._images(channels=3)
            each(store)

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches whose inputs are what `transfer` needs to select and transform the samples: one row of numbers each.

        The work on the device is queued by `transfer`: queued here, it would look as if the host were waiting for data.
        """
        assert self._inputs is not None, "closed"
        for request in requests(self._plan, epoch):
            ids = self._skipped.substituted(request.ids)
            spec = self._split.transform
            rows = torch.from_numpy(ids[:, None] if spec is None else self._rows(ids, request, spec))
            targets = torch.from_numpy(self._host_labels[ids])
            yield Batch(rows, targets, torch.from_numpy(ids), self._skipped.broken_in(request.ids))

    def _rows(self, ids: INT64, request: Request, spec: TransformSpec) -> INT64:
        """For each image the windows of its rows and columns, its id and whether it is flipped: (N, 10)."""
        crops, flips = request.draws(spec)
        sizes = self._sizes[ids].tolist()
        windows = [_window(height, width, spec, draws) for (height, width), draws in zip(sizes, crops, strict=True)]
        return np.column_stack([windows, ids, flips])

    def transfer(self, batch: Batch) -> Batch:
        assert self._inputs is not None, "closed"
        numbers = batch.inputs  # one copy, which does not wait for the device's queued work
        if self._device.has_page_locked_memory:
            numbers = self._device.copy(numbers.pin_memory(), non_blocking=True, pinned=True)
        spec = self._split.transform
        chosen = numbers[:, 0 if spec is None else ID]
        inputs = self._inputs.index_select(0, chosen)
        if spec is not None:
            inputs = self._transformed(inputs, numbers, spec)
        return replace(batch, inputs=inputs, targets=self._labels.index_select(0, chosen))

    def _transformed(self, images: torch.Tensor, numbers: torch.Tensor, spec: TransformSpec) -> torch.Tensor:
        _, height, _, width = images.shape
        rows = axis_weights(numbers[:, :4], None, spec.size, height)
        columns = axis_weights(numbers[:, 4:ID], numbers[:, ID + 1].bool(), spec.size, width)
        inputs = resample(images, rows, columns)
        normalization = self._split.normalization
        if normalization is not None and not normalization.on_device:
            inputs = normalize(inputs, normalization)
        return inputs

    def close(self) -> None:
        self._inputs = None


def _refusal(reason: str, override: str = "loader=native") -> UserError:
    return refuse("loader", "resident", reason, override, is_example=False, error=LoaderError)


def _window(height: int, width: int, spec: TransformSpec, draws: np.ndarray) -> tuple[int, ...]:
    """One row of `axis_weights`' windows for the rows of an image, then one for its columns."""
    if spec.random_crop:
        top, left, cropped_height, cropped_width = crop_window(height, width, spec, draws)
        return top, cropped_height, spec.size, 0, left, cropped_width, spec.size, 0
    resized_height, resized_width, top, left = center_window(height, width, spec)
    return 0, height, resized_height, top, 0, width, resized_width, left
