"""The usual code of other libraries: JPEG files of a folder-per-class tree to shuffled batches of 64 on the CPU.

Each has a random resized crop to 224 and a flip, N workers or threads, and one torch thread in each. None of them uses
loaderlab. The list of the tree is repeated many times, so that no epoch ends during a run.
"""

from __future__ import annotations

import io
import itertools
import math
import multiprocessing
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torchcodec.decoders import decode_image  # type: ignore[attr-defined]  # not listed in __all__
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.harness.turns import Served

BATCH, SIZE = 64, 224
SAMPLES = 200_000  # in an epoch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def items(folder: Path) -> list[tuple[str, int]]:
    """Paths and labels of the tree, repeated to at least `SAMPLES`."""
    samples: list[tuple[str, int]] = ImageFolder(str(folder)).samples
    return samples * math.ceil(SAMPLES / len(samples))


def _served(dataset: Dataset[Any], workers: int) -> Served:
    loader = DataLoader(
        dataset,
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",  # Linux's default; a spawned arm would pass on "spawn"
    )
    return Served((len(targets) for _ in itertools.count() for _, targets in loader), 2 * workers, workers)


def recipe(folder: Path, workers: int) -> Served:
    """torchvision's recipe: ImageFolder, Pillow, and float32 samples that are normalised one by one."""
    crop, flip = transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()
    transform = transforms.Compose([crop, flip, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    dataset = ImageFolder(str(folder), transform)
    dataset.samples = items(folder)
    return _served(dataset, workers)


class Decoded(Dataset[Any]):
    """Tensors that torchcodec decodes and torchvision crops and flips."""

    def __init__(self, folder: Path) -> None:
        self._items = items(folder)
        self._transform = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.sample(self._items[index])

    def sample(self, item: tuple[str, int]) -> tuple[torch.Tensor, int]:
        """The cropped and flipped image of a path, and its label."""
        return self._transform(decode_image(item[0])), item[1]


def torchcodec(folder: Path, workers: int) -> Served:
    """torchcodec in a plain DataLoader: uint8 samples, which the device would normalise."""
    return _served(Decoded(folder), workers)


def dali(folder: Path, threads: int) -> Served:
    """DALI's reader, its decoder that decodes only the crop, resize and flip; uint8."""
    import torch.utils.dlpack
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    paths, labels = map(list, zip(*items(folder), strict=True))
    pipeline = Pipeline(BATCH, threads, device_id=None, seed=0, prefetch_queue_depth=2)
    with pipeline:
        encoded, targets = fn.readers.file(files=paths, labels=labels, random_shuffle=True)
        images = fn.decoders.image_random_crop(encoded, output_type=types.RGB, random_area=[0.08, 1.0])
        images = fn.resize(images, size=[SIZE, SIZE])
        pipeline.set_outputs(fn.flip(images, horizontal=fn.random.coin_flip()), targets)
    pipeline.build()

    def batches() -> Iterator[int]:
        while True:
            _, targets = (torch.utils.dlpack.from_dlpack(out.as_tensor()) for out in pipeline.run())
            yield len(targets)

    return Served(batches(), ahead=2)


def _stream(folder: Path) -> Iterator[tuple[str, int]]:
    listed, draw = items(folder), random.Random(0)
    while True:
        draw.shuffle(listed)
        yield from listed


def _window(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop, as torchvision draws it."""
    for _ in range(10):
        area = height * width * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def missing_for_spdl() -> str:
    """Why SPDL's own decoder cannot run here; empty if it can."""
    import spdl.io.utils

    try:
        spdl.io.utils.get_ffmpeg_versions()
    except RuntimeError:
        return "spdl.io decodes by FFmpeg's shared libraries (libavutil and others), which are not installed"
    return ""


def spdl(folder: Path, threads: int) -> Served:
    """SPDL alone: spdl.io decodes; crop, scale and flip are a separate filter graph for each sample."""
    import spdl.io

    def sample(path: str) -> Any:
        packets = spdl.io.demux_image(path)
        assert packets.codec is not None
        top, left, height, width = _window(packets.codec.height, packets.codec.width)
        graph = f"crop=w={width}:h={height}:x={left}:y={top}:exact=1,scale=w={SIZE}:h={SIZE}:flags=bilinear"
        graph += ",hflip" * (random.random() < 0.5)
        return spdl.io.decode_packets(packets, filter_desc=f"{graph},format=pix_fmts=rgb24")

    def batch(listed: list[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        buffer = spdl.io.convert_frames([sample(path) for path, _ in listed])
        return spdl.io.to_torch(buffer).permute(0, 3, 1, 2), torch.tensor([label for _, label in listed])

    return _pipelined(folder, threads, batch)


def spdl_torchcodec(folder: Path, threads: int) -> Served:
    """SPDL's pipeline of threads around torchcodec and torchvision, instead of its own decoder."""
    dataset = Decoded(folder)

    def batch(listed: list[tuple[str, int]]) -> Any:
        return default_collate([dataset.sample(item) for item in listed])

    return _pipelined(folder, threads, batch)


def _pipelined(folder: Path, threads: int, batch: Any) -> Served:
    """A pipeline in which a thread makes a whole batch, as in SPDL's example of image loading.

    With single samples, its event loop takes half a millisecond of processor time for each.
    """
    from spdl.pipeline import Pipeline, PipelineBuilder

    buffered = 3
    pipeline: Pipeline[Any] = (
        PipelineBuilder[tuple[str, int], Any]()
        .add_source(_stream(folder))
        .aggregate(BATCH, drop_last=True)
        .pipe(batch, concurrency=threads)
        .add_sink(buffered)
        .build(num_threads=threads, max_failures=0)
    )
    pipeline.start()
    # the stage before the sink buffers one more batch; batches arrive when they are ready
    return Served((len(targets) for _, targets in pipeline), buffered + 2, threads)


def decoding(folder: Path, workers: int, decoder: str) -> Served:
    """The limit: the same number of processes, which only decode whole images from memory and return nothing."""
    context = multiprocessing.get_context("fork")
    counts = [context.RawValue("q", 0) for _ in range(workers)]
    encoded = [Path(path).read_bytes() for path, _ in ImageFolder(str(folder)).samples]
    for rank, count in enumerate(counts):
        context.Process(target=_decode, args=(decoder, encoded, rank, count), daemon=True).start()

    def decoded() -> Iterator[int]:
        while not all(count.value for count in counts):  # the processes are still importing
            time.sleep(0.05)
        before = 0
        while True:
            time.sleep(0.05)
            now = sum(count.value for count in counts)
            yield now - before
            before = now

    return Served(decoded(), ahead=1)


def _decode(decoder: str, encoded: list[bytes], rank: int, count: Any) -> None:
    def by_pillow(data: bytes) -> Any:
        return Image.open(io.BytesIO(data)).convert("RGB")

    decode = decode_image if decoder == "torchcodec" else by_pillow
    for data in random.Random(rank).choices(encoded, k=10**6):
        decode(data)
        count.value += 1


PEERS = {
    "recipe": (recipe, "torchvision: ImageFolder, Pillow, DataLoader, float32"),
    "torchcodec plain": (torchcodec, "torchcodec and torchvision v2 in a plain DataLoader, uint8"),
    "bare DALI": (dali, "readers.file, image_random_crop, resize, flip, uint8"),
    "bare SPDL": (spdl, "spdl.pipeline and spdl.io, uint8"),
    "bare SPDL + torchcodec": (spdl_torchcodec, "spdl.pipeline around torchcodec and torchvision v2, uint8"),
}
LIMITS = {f"decode {name}": (partial(decoding, decoder=name), f"{name} alone") for name in ("torchcodec", "Pillow")}
