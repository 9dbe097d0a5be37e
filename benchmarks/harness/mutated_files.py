"""Damages JPEG files in many ways and reads them with each loader in its own process."""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from loaderlab import loaders
from loaderlab.config import (
    DaliLoader,
    HostLoader,
    LoaderConfig,
    NativeLoader,
    ResidentLoader,
    SpdlLoader,
    TransformConfig,
)
from loaderlab.data.paths import PathTable
from loaderlab.data.spec import DataError, ImageFiles, OnError, Split, transforms
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.decode import decoder, read_image
from loaderlab.system.causes import described

TIMEOUT_S = 600.0  # for one chunk
CHUNK = 2_000  # mutated files
MAX_PIXELS = 4_000_000  # a header may claim any size; larger ones are rejected as decompression bombs
LOADERS: dict[str, LoaderConfig] = {
    "native": NativeLoader(num_workers=1),
    "native, Pillow": NativeLoader(num_workers=1, decoder="pillow"),
    "dali": DaliLoader(num_threads=1),
    "spdl": SpdlLoader(num_threads=1),
    "resident": ResidentLoader(),
}


def pictures(rng: np.random.Generator) -> list[bytes]:
    """Intact files of several kinds."""
    files = []
    for number in range(24):
        height, width = rng.integers(24, 90, 2)
        y, x = np.mgrid[0:height, 0:width]
        waves = np.stack([127 + 90 * np.sin(x / 7 + number), 127 + 90 * np.cos(y / 5), (x + y) % 256], -1)
        image = Image.fromarray((waves + rng.normal(0, 12, waves.shape)).clip(0, 255).astype(np.uint8))
        exif = Image.Exif()
        if number % 6 == 3:
            exif[0x0112] = 6
        out = io.BytesIO()
        kind = image.convert("L") if number % 6 == 4 else image
        kind.save(out, "JPEG", quality=85, subsampling=2 * (number % 2), progressive=number % 6 == 5, exif=exif)
        files.append(out.getvalue())
    return files


def mutated(intact: bytes, rng: np.random.Generator) -> bytes:
    """The file with damage of a random kind; some kinds leave it decodable."""
    data = bytearray(intact)
    match rng.integers(6):
        case 0:
            for bit in rng.integers(0, 8 * len(data), rng.integers(1, 17)):
                data[bit // 8] ^= 1 << (bit % 8)
        case 1:
            del data[rng.integers(0, len(data)) :]
        case 2:
            first = int(rng.integers(0, min(600, len(data))))
            count = min(len(data) - first, int(rng.integers(1, 24)))
            data[first : first + count] = rng.bytes(count)
        case 3:
            at = int(rng.integers(0, len(data)))
            data[at:at] = rng.bytes(int(rng.integers(1, 64)))
        case 4:
            at = int(rng.integers(0, len(data)))
            del data[at : at + rng.integers(1, 200)]
        case 5:
            at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
            data[at + 5 : at + 9] = (
                rng.bytes(4) if rng.random() < 0.5 else bytes([0, int(rng.integers(256)), 0, int(rng.integers(256))])
            )
    return bytes(data)


def written(folder: Path, number: int) -> tuple[list[str], int]:
    """The names of the files of one chunk, intact ones first, and the number of intact ones."""
    rng = np.random.default_rng(number)
    intact = pictures(rng)
    contents = [intact[index % len(intact)] for index in range(CHUNK // 3)]
    num_intact = len(contents)
    contents += [mutated(intact[rng.integers(len(intact))], rng) for _ in range(CHUNK)]
    names = [f"{index:05d}.jpg" for index in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    return names, num_intact


def of_small_size(folder: Path, names: list[str]) -> list[str]:
    """The files whose header claims a small picture: the resident loader pads all samples to the largest and rejects large ones."""

    def is_small(name: str) -> bool:
        try:
            with Image.open(folder / name) as image:
                return max(image.size) <= 256
        except Exception:  # Pillow raises many types for a damaged file
            return True

    return [name for name in names if is_small(name)]


def checked(config: LoaderConfig, folder: Path, names: list[str], num_intact: int, seed: int) -> tuple[int, str]:
    """The number of skipped samples of one chunk, and the first problem; empty if there is none."""
    train, _, normalization = transforms(TransformConfig(image_size=32))
    source = ImageFiles(PathTable.of(folder, names), np.zeros(len(names), np.int64))
    split = Split(source, train, normalization, OnError(skip=True, max_skipped=1.0, max_pixels=MAX_PIXELS))
    plan = EpochPlan(len(names), 64, True, False, seed)
    loader = loaders.build(config, split, plan, Cpu())
    delivered: set[int] = set()
    steps = 0
    try:
        for batch in loader.epoch(0):
            assert batch.ids is not None
            steps += 1
            delivered |= set(batch.ids.tolist())
    finally:
        loader.close()
    broken = dict(loader.broken)
    if steps != plan.num_steps:
        return len(broken), f"{steps} batches instead of {plan.num_steps}"
    if lost := set(range(len(names))) - delivered - set(broken):
        return len(broken), f"{len(lost)} files neither delivered nor skipped: {names[min(lost)]}"
    if unnamed := [index for index, reason in broken.items() if names[index] not in reason]:
        return len(broken), f"{len(unnamed)} files skipped without their name"
    if wrong := [index for index in broken if index < num_intact]:
        return len(broken), f"{len(wrong)} intact files skipped: {broken[wrong[0]]}"
    if isinstance(config, HostLoader):
        undecodable = set()
        for index in range(len(names)):
            try:
                read_image(source, index, decoder(config.decoder), MAX_PIXELS)
            except DataError:
                undecodable.add(index)
        if undecodable != set(broken):
            return len(broken), f"{len(undecodable ^ set(broken))} files have a different outcome when decoded alone"
    return len(broken), ""


def work(name: str, chunks: range, send: Connection, log: str) -> None:
    """Reads these chunks with one loader in its own process; messages of libraries about broken files go to ``log``."""
    log_file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log_file, 2)
    for number in chunks:
        folder = Path(tempfile.mkdtemp(prefix="mutated-"))
        try:
            names, num_intact = written(folder, number)
            if isinstance(LOADERS[name], ResidentLoader):
                names = of_small_size(folder, names)
            send.send((number, len(names) - num_intact, *checked(LOADERS[name], folder, names, num_intact, number)))
        except Exception as error:
            send.send((number, 0, 0, described(error)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def passes(name: str, chunks: range) -> bool:
    """Whether one loader passes all checks; prints its result."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    log = tempfile.NamedTemporaryFile(prefix="mutated-", suffix=".log")  # noqa: SIM115
    process = context.Process(target=work, args=(name, chunks, send, log.name))
    began = time.perf_counter()
    process.start()
    send.close()
    files = skipped = 0
    problems: list[str] = []
    for number in chunks:
        try:
            if not receive.poll(TIMEOUT_S):
                problems.append(f"chunk {number}: no answer within {TIMEOUT_S:.0f} s")
                process.kill()
                break
            _, count, broken, problem = receive.recv()
        except EOFError:
            process.join()
            problems.append(f"chunk {number}: the process ended with exit code {process.exitcode}")
            break
        files, skipped = files + count, skipped + broken
        if problem:
            problems.append(f"chunk {number}: {problem}")
    process.join()
    spent = time.perf_counter() - began
    print(
        f"{name:<16}{files:>9,} mutated files, {skipped:>7,} skipped by name, {spent:6.0f} s: {'; '.join(problems) or 'passed'}",
        flush=True,
    )
    return not problems
