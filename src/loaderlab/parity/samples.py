"""Compares a loader with the reference sample by sample: ids, order, batch sizes, labels, shapes, pixels.

The reference is the native loader without workers and with Pillow, which reads every format that any of the decoders
reads. Its batches are built for the ids that the loader delivered, so that nothing is kept in memory and a loader
without a fixed order can be checked.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from loaderlab.data.normalization import mean_and_std
from loaderlab.data.spec import (
    INT64,
    DataError,
    EncodedImages,
    ImageArrays,
    ImageFiles,
    Normalization,
    OnError,
    Source,
    Split,
    UserItems,
    Vectors,
)
from loaderlab.device.base import Device
from loaderlab.loaders.contract import Batch, EpochPlan, Loader
from loaderlab.loaders.decode import decoder, read_image
from loaderlab.loaders.fetch import BatchFetcher, Request
from loaderlab.loaders.fetchers import fetcher
from loaderlab.loaders.nesting import mapped, tensors
from loaderlab.parity.nested import difference, incomparable
from loaderlab.parity.result import ResultBuilder

# Measured in comparison with Pillow on 4:4:4, 4:2:2 and 4:2:0 JPEG files, digits and noise, with every resizing: see
# docs/same_work.md. At the border a filter may repeat the edge or leave it out; its weight outside the image is at most
# 1/8, in a corner 1 - (7/8)^2, so that the difference is at most this share of 255 levels.
INSIDE_LEVELS = 1
BORDER_LEVELS = 60
# Mean over a sample if a GPU decodes the image. Chosen, not measured on a GPU; `mean_limit` uses a measured difference if
# it is smaller.
OTHER_DECODER_LEVELS = 4.0


def mean_limit(decoder_levels: float | None) -> float:
    """The allowed mean difference of a sample that a GPU decoded, in levels of 255. Resizing adds at most `INSIDE_LEVELS`.

    Args:
        decoder_levels: mean difference of the GPU's decoder from the CPU's on an image of noise, measured on this GPU; None
            if it is unknown.
    """
    return OTHER_DECODER_LEVELS if decoder_levels is None else min(OTHER_DECODER_LEVELS, decoder_levels + INSIDE_LEVELS)


def chosen_ids(num_samples: int, limit: int | None, batch_size: int) -> INT64:
    """``limit`` ids spread evenly over a split, or one more so that the last batch is incomplete; None: all ids."""
    count = num_samples if limit is None else min(limit, num_samples)
    if count < num_samples and count % batch_size == 0:
        count += 1
    return np.linspace(0, num_samples - 1, count).round().astype(np.int64)


def part(split: Split, ids: INT64) -> Split:
    """A split of the samples with these ids; its transform is the split's without the random parts."""
    match split.source:
        case EncodedImages():
            source: Source = split.source.take(ids)
        case ImageArrays(images=images, labels=labels):
            source = ImageArrays(images[ids], labels[ids])
        case Vectors(inputs=inputs, labels=labels):
            source = Vectors(inputs[ids], labels[ids], split.source.work)
        case UserItems():
            source = replace(split.source, dataset=Subset(split.source.dataset, ids.tolist()))
    fixed = None if split.transform is None else replace(split.transform, random_crop=False, flip=0.0)
    # broken samples are already left out: a sample that replaces a broken one would occur twice
    return replace(
        split, source=source, transform=fixed, on_error=OnError(max_pixels=split.on_error.max_pixels), blocks=None
    )


def loadable(split: Split, ids: INT64) -> INT64:
    """The ids that the reference can decode, if broken samples are to be skipped; otherwise all."""
    if not split.on_error.skip or not isinstance(split.source, EncodedImages):
        return ids
    decode, decoded = decoder("pillow"), []
    for index in ids.tolist():
        with contextlib.suppress(DataError):
            read_image(split.source, index, decode, split.on_error.max_pixels)
            decoded.append(index)
    return np.array(decoded, np.int64)


def levels(inputs: torch.Tensor, normalization: Normalization | None) -> torch.Tensor:
    """Images before normalization: 0 to 255, float32, whole numbers."""
    if normalization is None or inputs.dtype == torch.uint8:
        return inputs.float()
    mean, std = mean_and_std(normalization, inputs.device)
    return inputs.mul(std).add_(mean).mul_(255).round_()


class SampleCheck:
    """Compares loaders of one part of a split with the reference.

    Args:
        split: the part.
        ids: of its samples in the whole split, for the messages.
        batch_size: with which a user's dataset is read.
        builder: receives the mismatches.
    """

    def __init__(self, split: Split, ids: INT64, device: Device, batch_size: int, builder: ResultBuilder) -> None:
        self._split, self._ids, self._device, self._builder = split, ids, device, builder
        self._reference: BatchFetcher = fetcher(split, True, "pillow")
        self._values = self._labels = self._comparable = True
        if isinstance(split.source, UserItems):
            self._read_twice(batch_size)

    def _read_twice(self, batch_size: int) -> None:
        """Reads a user's dataset twice: what differs between the two readings is random and is not compared."""
        for start in range(0, len(self._ids), batch_size):
            request = Request(np.arange(start, min(start + batch_size, len(self._ids))), 0, 0, 0)
            once, again = self._reference.build(request), self._reference.build(request)
            if once.is_whole:
                if self._is_comparable(once.inputs):
                    self._values &= not difference(once.inputs, again.inputs)
                continue
            self._values &= bool(_equal(once.inputs, again.inputs).all())
            self._labels &= bool((once.targets == again.targets).all())
        for same, name in ((self._values, "values"), (self._labels, "labels")):
            if not same:
                self._builder.add_note(f"{name} not compared: the dataset returns different ones each time")

    def _is_comparable(self, content: Any) -> bool:
        """Whether the contents of a user's whole batches can be compared; if not, notes the reason once."""
        if self._comparable and (what := incomparable(content)):
            self._comparable = False
            self._builder.add_note(f"contents not compared: a batch contains {what}")
        return self._comparable

    def epoch(self, loader: Loader, plan: EpochPlan, epoch: int, *, in_order: bool) -> None:
        """Compares one epoch of a loader of this part."""
        delivered: list[INT64] = []
        can = loader.capabilities
        limit = mean_limit(can.decoder_levels) if can.decodes_on_device else None
        self._builder.set_mean_limit(limit)
        for batch in loader.epoch(epoch):
            moved = loader.transfer(batch)
            if moved.ids is None:
                self._builder.add_mismatch("ids", f"epoch {epoch}, step {len(delivered)}: the batch has none")
                return
            delivered.append(moved.ids.numpy())
            self._batch(moved, delivered[-1], plan, epoch, len(delivered) - 1, limit)
        if loader.num_steps != plan.num_steps:
            self._builder.add_mismatch(
                "steps", f"the loader reports {loader.num_steps} steps per epoch, expected {plan.num_steps}"
            )
        self._ids_of(delivered, plan.batches(epoch), epoch, in_order)

    # ---- ids -----------------------------------------------------------------------------------------------

    def _ids_of(self, delivered: Sequence[INT64], planned: Sequence[INT64], epoch: int, in_order: bool) -> None:
        counts = Counter(np.concatenate([*delivered, np.empty(0, np.int64)]).tolist())
        expected = np.concatenate([*planned, np.empty(0, np.int64)]).tolist()
        for index in expected:
            if counts[index] != 1:
                times = "is missing" if counts[index] == 0 else f"occurs {counts[index]} times"
                self._add("ids", f"{times} in epoch {epoch}", index)
        for index in counts.keys() - set(expected):
            self._builder.add_mismatch(
                "ids", f"epoch {epoch}: {index} is not among the {len(expected)} planned samples"
            )
        sizes, others = [list(map(len, batches)) for batches in (delivered, planned)]
        if not in_order:
            sizes, others = sorted(sizes, reverse=True), sorted(others, reverse=True)
        if len(sizes) != len(others):
            self._builder.add_mismatch("steps", f"epoch {epoch} had {len(sizes)} steps, expected {len(others)}")
        elif sizes[:-1] != others[:-1]:
            step = next(step for step, size in enumerate(sizes) if size != others[step])
            self._builder.add_mismatch(
                "batches", f"epoch {epoch}, step {step} had {sizes[step]} samples, expected {others[step]}"
            )
        elif sizes != others:
            self._builder.add_mismatch("last batch", f"epoch {epoch}: {sizes[-1]} samples, expected {others[-1]}")
        elif in_order and [batch.tolist() for batch in delivered] != [batch.tolist() for batch in planned]:
            place = next(place for place, index in enumerate(np.concatenate(delivered)) if index != expected[place])
            self._add(
                "order",
                f"is number {place} of epoch {epoch}, expected {self._name(expected[place])}",
                int(np.concatenate(delivered)[place]),
            )

    # ---- a batch -------------------------------------------------------------------------------------------

    def _batch(self, batch: Batch, ids: INT64, plan: EpochPlan, epoch: int, step: int, limit: float | None) -> None:
        where = f"epoch {epoch}, step {step}"
        if len(ids) == 0 or ids.min() < 0 or ids.max() >= len(self._ids):
            self._builder.add_mismatch("ids", f"{where}: {ids.tolist()[:5]} are not ids of {len(self._ids)} samples")
            return
        expected = self._reference.build(Request(ids, plan.seed, epoch, step))
        if expected.is_whole:
            self._whole(batch, expected, where)
            return
        if batch.inputs.device.type != self._device.torch_device.type:
            self._builder.add_mismatch(
                "device", f"{where}: the batch is on {batch.inputs.device}, expected {self._device.torch_device}"
            )
        inputs, targets = batch.inputs.cpu(), batch.targets.cpu()
        for name, own, other in (("inputs", inputs, expected.inputs), ("targets", targets, expected.targets)):
            if own.shape != other.shape:
                self._builder.add_mismatch(
                    "shape", f"{where}: {name} {tuple(own.shape)}, expected {tuple(other.shape)}"
                )
            if own.dtype != other.dtype:
                self._builder.add_mismatch("dtype", f"{where}: {name} {own.dtype}, expected {other.dtype}")
        if targets.shape == expected.targets.shape and self._labels:
            for row in torch.nonzero(targets != expected.targets).flatten().tolist():
                self._add("labels", f"has {int(targets[row])}, expected {int(expected.targets[row])}", int(ids[row]))
        if inputs.shape != expected.inputs.shape or inputs.dtype != expected.inputs.dtype:
            return
        if self._split.transform is not None:
            self._pixels(inputs, expected.inputs, ids, limit)
        elif self._values:
            for row in torch.nonzero(~_equal(inputs, expected.inputs)).flatten().tolist():
                difference = (inputs[row].double() - expected.inputs[row].double()).abs().max()
                self._add("values", f"differs by up to {difference:.4g}, expected equal values", int(ids[row]))

    def _whole(self, batch: Batch, expected: Batch, where: str) -> None:
        """Compares a user's whole batch."""
        if len(batch) != len(expected):
            self._builder.add_mismatch("count", f"{where}: {len(batch)} samples, expected {len(expected)}")
        for tensor in tensors(batch.inputs):
            if tensor.device.type != self._device.torch_device.type:
                self._builder.add_mismatch(
                    "device", f"{where}: a tensor is on {tensor.device}, expected {self._device.torch_device}"
                )
        if not (self._values and self._is_comparable(expected.inputs)):
            return
        on_host = mapped(batch.inputs, lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf)
        if text := difference(on_host, expected.inputs):
            self._builder.add_mismatch("values", f"{where}: {text}")

    def _pixels(self, inputs: torch.Tensor, expected: torch.Tensor, ids: INT64, limit: float | None) -> None:
        """Compares pixels. ``limit``: of the mean difference of a sample, if a GPU decoded it."""
        if not inputs.is_contiguous(memory_format=torch.channels_last):
            self._builder.add_mismatch(
                "layout", f"strides {inputs.stride()} of {tuple(inputs.shape)}, expected channels-last"
            )
        normalization = self._split.normalization
        difference = (levels(inputs, normalization) - levels(expected, normalization)).abs()
        inside, whole = difference[..., 1:-1, 1:-1].amax((1, 2, 3)), difference.amax((1, 2, 3))
        means = difference.mean((1, 2, 3))
        self._builder.add_pixel_difference(float(inside.max()), float(whole.max()), float(means.max()))
        if limit is not None:
            allowed, wrong = f"{limit:g} on average", means > limit
        else:
            allowed = f"{INSIDE_LEVELS} inside and {BORDER_LEVELS} at the border"
            wrong = (inside > INSIDE_LEVELS) | (whole > BORDER_LEVELS)
        for row in torch.nonzero(wrong).flatten().tolist():
            text = f"differs by up to {whole[row]:g} of 255 levels, on average {means[row]:.2f}; the limit is {allowed}"
            self._add("pixels", text, int(ids[row]))

    # ---- naming --------------------------------------------------------------------------------------------

    def _add(self, name: str, text: str, position: int) -> None:
        self._builder.add_mismatch(name, f"{self._name(position)} {text}", int(self._ids[position]))

    def _name(self, position: int) -> str:
        """``sample 17 (ant/03.jpg)``."""
        name, source = f"sample {self._ids[position]}", self._split.source
        if isinstance(source, ImageFiles):
            return f"{name} ({os.path.relpath(source.paths[position], source.paths.root)})"
        return f"{name} ({source.name(position)})" if isinstance(source, EncodedImages) else name


def _equal(inputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N,) bool: samples that are exactly equal; NaN equals NaN."""
    return torch.isclose(inputs, others, rtol=0, atol=0, equal_nan=True).flatten(1).all(1)
