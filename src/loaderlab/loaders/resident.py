"""The whole set in the device's memory: for small data no other loader has so little to do.

Files are decoded once, when the loader is built. From then on a batch is picked by its ids on the device, and there images
are cropped, flipped and resized all at once, by the random numbers that the native loader draws for the same batch.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from loaderlab.config import ResidentLoader
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
from loaderlab.loaders.broken import BrokenSamples
from loaderlab.loaders.contract import Batch, EpochPlan, Loader, LoaderError
from loaderlab.loaders.decode import (
    center_window,
    crop_window,
    decoder,
    read_image,
    why_unreadable,
)
from loaderlab.loaders.fetch import Request, check_decodable, normalize, requests
from loaderlab.loaders.header import check_header
from loaderlab.loaders.resample import axis_weights, resample
from loaderlab.machine import available_cores

KEPT_FREE = 0.25  # of the free memory, for the model, its gradients and the batches
CHUNK = 1024  # images that are rearranged at once


class Resident(Loader):
    """The resident backend. See `Loader` for the contract; `resident` is false all the same, since its batches are made
    anew in each step: there is something to measure.

    Raises:
        LoaderError: the samples do not fit into the device's memory, or are not the same in each epoch.
        DataError: a file does not decode: here, not while iterating.
    """

    def __init__(self, config: ResidentLoader, split: Split, plan: EpochPlan, device: torch.device) -> None:
        self._split, self._plan, self._device = split, plan, device
        self._skipped = BrokenSamples(split.on_error, plan.num_samples)
        self.broken = self._skipped.reasons
        source = split.source
        match source:
            case UserItems():
                raise LoaderError(
                    "loader=resident: the items of your own dataset may be others each time that they are asked for, and "
                    "would be kept as they come first. Type: loader=native"
                )
            case Vectors(work=work) if work:
                raise LoaderError(
                    f"loader=resident: data.work={work} stands for work on each sample in each epoch, and samples that stay "
                    "on the device have it behind them. Type: loader=native, or data.work=0"
                )
            case Vectors():
                if device.type != "cpu":  # where they are already
                    self._make_room(source.inputs.nbytes)
                self._inputs: torch.Tensor | None = torch.from_numpy(source.inputs).to(device)
            case ImageArrays():
                num_images, height, width, channels = source.images.shape
                self._sizes: INT64 = np.full((num_images, 2), (height, width))
                images = self._images(channels)
                for start in range(0, num_images, CHUNK):
                    chunk = torch.from_numpy(source.images[start : start + CHUNK])
                    images[start : start + CHUNK] = chunk.to(device).permute(0, 1, 3, 2)
            case EncodedImages():
                if isinstance(source, ImageFiles):
                    check_decodable(source, config.decoder)
                self._decode(source, config.decoder)
        self._labels = torch.from_numpy(source.labels).to(device)
        assert self._inputs is not None
        self.settings = {"decoder": config.decoder, "samples_mib": round(self._inputs.nbytes / 2**20, 1)}

    def _images(self, channels: int) -> torch.Tensor:
        """Memory for images of these sizes (N, height, C, width), as high and wide as the largest: `resample` says why in
        this order."""
        (height, width), spec = self._sizes.max(0).tolist(), self._split.transform
        assert spec is not None
        # of a batch: its images as bytes and as floats, half-way resized, and the weights with what they are made of
        floats = channels * height * (width + 2 * spec.size) + 8 * spec.size * (height + width)
        batch = self._plan.batch_size * (channels * height * width + 4 * floats)
        self._make_room(
            len(self._sizes) * channels * height * width + batch, f", each padded to {height} x {width} pixels"
        )
        self._inputs = torch.empty((len(self._sizes), height, channels, width), dtype=torch.uint8, device=self._device)
        return self._inputs

    def _make_room(self, num_bytes: int, padded: str = "") -> None:
        if self._device.type == "cuda":
            unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
            free = torch.cuda.mem_get_info(self._device)[0] + unused
        else:
            free = psutil.virtual_memory().available
        if num_bytes > (1 - KEPT_FREE) * free:
            raise LoaderError(
                f"loader=resident: {self._split.num_samples} samples need {num_bytes / 2**30:.3g} GiB{padded}; {self._device} "
                f"has {free / 2**30:.3g} GiB free, of which a quarter is left to the model. Type: loader=native"
            )

    def _decode(self, source: EncodedImages, decoder_name: str) -> None:
        decode, on_error = decoder(decoder_name), self._split.on_error
        everything = range(len(source))

        def attempt(work: Callable[[int], Any], index: int) -> Any:
            """What is made of a sample; None where it is broken, and skipped."""
            if index in self.broken:
                return None
            try:
                return work(index)
            except DataError as error:
                if not on_error.skip:
                    raise
                self._skipped.add({index: str(error)})
                return None

        def size(index: int) -> tuple[int, int]:
            return _size(source, index, on_error.max_pixels)

        def load(index: int) -> None:
            image = read_image(source, index, decode, on_error.max_pixels)
            images[index, : image.shape[1], :, : image.shape[2]] = image.permute(1, 0, 2)

        with ThreadPoolExecutor(available_cores()) as threads:
            sizes = list(threads.map(functools.partial(attempt, size), everything))
            self._sizes = np.array([found or (1, 1) for found in sizes], np.int64)
            images = self._images(channels=3)
            list(threads.map(functools.partial(attempt, load), everything))

    @property
    def num_steps(self) -> int:
        return self._plan.num_steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        spec = self._split.transform
        for request in requests(self._plan, epoch):
            yield self._picked(request) if spec is None else self._transformed(request, spec)

    def _picked(self, request: Request) -> Batch:
        assert self._inputs is not None, "closed"
        ids = self._on_device(request.ids)
        return Batch(self._inputs[ids], self._labels[ids], torch.from_numpy(request.ids))

    def _transformed(self, request: Request, spec: TransformSpec) -> Batch:
        assert self._inputs is not None, "closed"
        crops, flips = request.draws(spec)
        sizes = self._sizes[request.ids].tolist()
        windows = [_window(height, width, spec, draws) for (height, width), draws in zip(sizes, crops, strict=True)]
        numbers = self._on_device(np.column_stack([windows, request.ids, flips]))  # one copy
        ids, (_, height, _, width) = numbers[:, 8], self._inputs.shape
        rows = axis_weights(numbers[:, :4], None, spec.size, height)
        columns = axis_weights(numbers[:, 4:8], numbers[:, 9].bool(), spec.size, width)
        inputs = resample(self._inputs[ids], rows, columns)
        normalization = self._split.normalization
        if normalization is not None and not normalization.on_device:
            inputs = normalize(inputs, normalization)
        return Batch(inputs, self._labels[ids], torch.from_numpy(request.ids))

    def _on_device(self, numbers: INT64) -> torch.Tensor:
        """A copy that does not wait for the device's work."""
        here = torch.from_numpy(numbers)
        return here.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else here

    def transfer(self, batch: Batch) -> Batch:
        return batch

    def close(self) -> None:
        self._inputs = None


def _window(height: int, width: int, spec: TransformSpec, draws: np.ndarray) -> tuple[int, ...]:
    """What `axis_weights` needs of one image: of its rows, then of its columns."""
    if spec.random_crop:
        top, left, cropped_height, cropped_width = crop_window(height, width, spec, draws)
        return top, cropped_height, spec.size, 0, left, cropped_width, spec.size, 0
    resized_height, resized_width, top, left = center_window(height, width, spec)
    return 0, height, resized_height, top, 0, width, resized_width, left


def _size(source: EncodedImages, index: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of an image upright, from the head of its file."""
    try:
        data = source.read(index)
        check_header(data, max_pixels)
        with Image.open(io.BytesIO(data.tobytes())) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations of images that lie on their side
    except Exception as error:
        raise DataError(why_unreadable(source, index, error)) from None
    return (width, height) if turned else (height, width)
