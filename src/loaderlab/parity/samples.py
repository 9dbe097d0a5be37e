"""Sample by sample against the reference: ids, order, cuts, labels, shapes, pixels.

The reference is what the native loader does without workers and with Pillow, which reads every format that any decoder
does. Its batches are built for the ids that came, so that nothing is held in memory and a loader without order can be
judged.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

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
from loaderlab.loaders.contract import Batch, EpochPlan, Loader
from loaderlab.loaders.decode import decoder, read_image
from loaderlab.loaders.fetch import BatchFetcher, Request
from loaderlab.loaders.fetchers import fetcher
from loaderlab.parity.result import ResultBuilder

# Measured against Pillow on 4:4:4, 4:2:2 and 4:2:0 JPEG files, digits and noise, with every resizing: see
# docs/measuring.md. The border is bounded by what repeating the edge can differ from leaving it out: a filter's weight
# outside is at most 1/8, in a corner 1 - (7/8)^2, of 255 levels.
INSIDE_LEVELS = 1
BORDER_LEVELS = 60
OTHER_DECODER_LEVELS = 4.0  # mean over a sample, where the image is decoded by a GPU: chroma may be upsampled otherwise


def chosen_ids(num_samples: int, asked: int | None, batch_size: int) -> INT64:
    """Ids spread evenly over a split, one more than asked where the last batch would not be short otherwise."""
    count = num_samples if asked is None else min(asked, num_samples)
    if count < num_samples and count % batch_size == 0:
        count += 1
    return np.linspace(0, num_samples - 1, count).round().astype(np.int64)


def part(split: Split, ids: INT64) -> Split:
    """The samples with these ids, as a split of their own; the transform is that of the split, without what is random."""
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
    # what is broken has been left out: a sample that stood in for another would come twice
    return replace(
        split, source=source, transform=fixed, on_error=OnError(max_pixels=split.on_error.max_pixels), blocks=None
    )


def loadable(split: Split, ids: INT64) -> INT64:
    """Those of these ids that the reference decodes, where broken samples are to be skipped."""
    if not split.on_error.skip or not isinstance(split.source, EncodedImages):
        return ids
    decode, decoded = decoder("pillow"), []
    for index in ids.tolist():
        with contextlib.suppress(DataError):
            read_image(split.source, index, decode, split.on_error.max_pixels)
            decoded.append(index)
    return np.array(decoded, np.int64)


def levels(inputs: torch.Tensor, normalization: Normalization | None) -> torch.Tensor:
    """Images as they were before normalisation: 0 to 255, float32, whole numbers."""
    if normalization is None or inputs.dtype == torch.uint8:
        return inputs.float()
    mean, std = mean_and_std(normalization, inputs.device)
    return inputs.mul(std).add_(mean).mul_(255).round_()


class SampleCheck:
    """Compares loaders of one part of a split with the reference.

    Args:
        split: the part.
        ids: of its samples in the whole split, by which they are named.
        batch_size: of the readings of a user's dataset.
        builder: gets the differences.
    """

    def __init__(self, split: Split, ids: INT64, device: torch.device, batch_size: int, builder: ResultBuilder) -> None:
        self._split, self._ids, self._device, self._builder = split, ids, device, builder
        self._reference: BatchFetcher = fetcher(split, True, "pillow")
        self._values = self._labels = True
        if isinstance(split.source, UserItems):
            self._read_twice(batch_size)

    def _read_twice(self, batch_size: int) -> None:
        """A user's dataset may be random: what differs between two readings by the reference itself is not compared."""
        for start in range(0, len(self._ids), batch_size):
            request = Request(np.arange(start, min(start + batch_size, len(self._ids))), 0, 0, 0)
            once, again = self._reference.build(request), self._reference.build(request)
            self._values &= bool(_equal(once.inputs, again.inputs).all())
            self._labels &= bool((once.targets == again.targets).all())
        for same, what in ((self._values, "values"), (self._labels, "labels")):
            if not same:
                self._builder.add_note(f"{what} not compared: the dataset gives others each time")

    def epoch(self, loader: Loader, plan: EpochPlan, epoch: int, *, in_order: bool) -> None:
        """Goes through one epoch of a loader of this part."""
        came: list[INT64] = []
        for batch in loader.epoch(epoch):
            given = loader.transfer(batch)
            if given.ids is None:
                self._builder.add_mismatch("ids", f"epoch {epoch}, step {len(came)}: the batch has none")
                return
            came.append(given.ids.numpy())
            self._batch(given, came[-1], plan, epoch, len(came) - 1, loader.capabilities.decodes_on_device)
        if loader.num_steps != plan.num_steps:
            self._builder.add_mismatch(
                "steps", f"the loader tells {loader.num_steps} steps an epoch, it must be {plan.num_steps}"
            )
        self._ids_of(came, plan.batches(epoch), epoch, in_order)

    # ---- ids -----------------------------------------------------------------------------------------------

    def _ids_of(self, came: Sequence[INT64], planned: Sequence[INT64], epoch: int, in_order: bool) -> None:
        counts = Counter(np.concatenate([*came, np.empty(0, np.int64)]).tolist())
        wanted = np.concatenate([*planned, np.empty(0, np.int64)]).tolist()
        for index in wanted:
            if counts[index] != 1:
                times = "did not come" if counts[index] == 0 else f"came {counts[index]} times"
                self._add("ids", f"{times} in epoch {epoch}", index)
        for index in counts.keys() - set(wanted):
            self._builder.add_mismatch(
                "ids", f"epoch {epoch}: {index} came, which is not in its plan of {len(wanted)} samples"
            )
        sizes, others = [list(map(len, batches)) for batches in (came, planned)]
        if not in_order:
            sizes, others = sorted(sizes, reverse=True), sorted(others, reverse=True)
        if len(sizes) != len(others):
            self._builder.add_mismatch("steps", f"epoch {epoch} had {len(sizes)} steps, it must have {len(others)}")
        elif sizes[:-1] != others[:-1]:
            step = next(step for step, size in enumerate(sizes) if size != others[step])
            self._builder.add_mismatch(
                "batches", f"epoch {epoch}, step {step} had {sizes[step]} samples, it must have {others[step]}"
            )
        elif sizes != others:
            self._builder.add_mismatch(
                "last batch", f"epoch {epoch}: it had {sizes[-1]} samples, it must have {others[-1]}"
            )
        elif in_order and [batch.tolist() for batch in came] != [batch.tolist() for batch in planned]:
            place = next(place for place, index in enumerate(np.concatenate(came)) if index != wanted[place])
            self._add(
                "order",
                f"came in epoch {epoch} as number {place}, where {self._name(wanted[place])} belongs",
                int(np.concatenate(came)[place]),
            )

    # ---- a batch -------------------------------------------------------------------------------------------

    def _batch(self, given: Batch, ids: INT64, plan: EpochPlan, epoch: int, step: int, other_decoder: bool) -> None:
        where = f"epoch {epoch}, step {step}"
        if len(ids) == 0 or ids.min() < 0 or ids.max() >= len(self._ids):
            self._builder.add_mismatch("ids", f"{where}: {ids.tolist()[:5]} are no ids of {len(self._ids)} samples")
            return
        expected = self._reference.build(Request(ids, plan.seed, epoch, step))
        if given.inputs.device.type != self._device.type:
            self._builder.add_mismatch(
                "device", f"{where}: the batch is on {given.inputs.device}, it must be on {self._device}"
            )
        inputs, targets = given.inputs.cpu(), given.targets.cpu()
        for name, own, other in (("inputs", inputs, expected.inputs), ("targets", targets, expected.targets)):
            if own.shape != other.shape:
                self._builder.add_mismatch(
                    "shape", f"{where}: {name} {tuple(own.shape)}, it must be {tuple(other.shape)}"
                )
            if own.dtype != other.dtype:
                self._builder.add_mismatch("dtype", f"{where}: {name} {own.dtype}, it must be {other.dtype}")
        if targets.shape == expected.targets.shape and self._labels:
            for row in torch.nonzero(targets != expected.targets).flatten().tolist():
                self._add("labels", f"has {int(targets[row])}, it must be {int(expected.targets[row])}", int(ids[row]))
        if inputs.shape != expected.inputs.shape or inputs.dtype != expected.inputs.dtype:
            return
        if self._split.transform is not None:
            self._pixels(inputs, expected.inputs, ids, other_decoder)
        elif self._values:
            for row in torch.nonzero(~_equal(inputs, expected.inputs)).flatten().tolist():
                difference = (inputs[row].double() - expected.inputs[row].double()).abs().max()
                self._add("values", f"differs by up to {difference:.4g}, it must be equal", int(ids[row]))

    def _pixels(self, inputs: torch.Tensor, expected: torch.Tensor, ids: INT64, other_decoder: bool) -> None:
        if not inputs.is_contiguous(memory_format=torch.channels_last):
            self._builder.add_mismatch(
                "layout", f"strides {inputs.stride()} of {tuple(inputs.shape)}, it must be channels-last"
            )
        normalization = self._split.normalization
        difference = (levels(inputs, normalization) - levels(expected, normalization)).abs()
        inside, whole = difference[..., 1:-1, 1:-1].amax((1, 2, 3)), difference.amax((1, 2, 3))
        means = difference.mean((1, 2, 3))
        self._builder.add_pixel_difference(float(inside.max()), float(whole.max()))
        if other_decoder:
            limit, wrong = f"{OTHER_DECODER_LEVELS:g} on average", means > OTHER_DECODER_LEVELS
        else:
            limit, wrong = (
                f"{INSIDE_LEVELS} inside and {BORDER_LEVELS} at the border",
                (inside > INSIDE_LEVELS) | (whole > BORDER_LEVELS),
            )
        for row in torch.nonzero(wrong).flatten().tolist():
            text = f"differs by up to {whole[row]:g} of 255 levels, on average {means[row]:.2f}; allowed are {limit}"
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
    """(N,) bool: samples that are equal to the bit, no number being equal to no number."""
    return torch.isclose(inputs, others, rtol=0, atol=0, equal_nan=True).flatten(1).all(1)
