"""A dataset with one slow line: eight kinds, each with about 3 ms of 5 ms per sample. The planted line measures its own time.

The time of the line and of each batch travels with the batch, so that its true share is known without the profiler.
"""

from __future__ import annotations

import lzma
import os
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

CASES = ("transform", "decoder", "lock", "collate", "copy", "loop", "file", "sleep")
BATCH = 8
REPEATED = 10
LENGTH = 10_000_000  # samples: no epoch ends during a run
_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Made:
    """A batch.

    Attributes:
        worker: that made it; 0 without workers.
        begin_ns, end_ns: of its making.
        planted_ns: of the planted line in it.
    """

    inputs: torch.Tensor
    worker: int
    begin_ns: int
    end_ns: int
    planted_ns: int


class Warp:
    """A transform with the planted line."""

    def __init__(self) -> None:
        self.noise = _RNG.random(150_000)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        order = np.argsort(self.noise)  # planted: transform
        return image + float(order[0] >= 0)


class LockHolder:
    """A thread that holds a lock most of the time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        threading.Thread(target=self._hold, daemon=True).start()

    def _hold(self) -> None:
        while True:
            with self.lock:
                time.sleep(0.004)
            time.sleep(0.0005)


class PlantedDataset(Dataset[Any]):
    """Samples with base work of about 2 ms in several lines, partly waiting.

    Args:
        case: of `CASES`.
        switch: (1,) in shared memory: 0 leaves the planted line out.
    """

    def __init__(self, case: str, switch: torch.Tensor) -> None:
        self.case, self.switch = case, switch
        self.small = zlib.compress(_RNG.integers(0, 40, 150_000, dtype=np.uint8).tobytes())
        self.large = zlib.compress(_RNG.integers(0, 40, 700_000, dtype=np.uint8).tobytes())
        self.pixels = _RNG.integers(0, 255, (200, 200), dtype=np.uint8)
        self.scaled, self.roots = np.zeros((2, 200, 200), np.float32)
        self.frames = _RNG.integers(0, 255, (2000, 1500), dtype=np.uint8)
        self.values = [number % 16 for number in range(150_000)]
        self.few = self.values[:20_000]
        self.warp = Warp()
        self.holder: LockHolder | None = None
        self.path = Path(tempfile.gettempdir()) / f"loaderlab_slow_lines_{os.getpid()}.xz"
        if case == "file":
            self.path.write_bytes(lzma.compress(_RNG.integers(0, 40, 90_000, dtype=np.uint8).tobytes(), preset=0))

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        begin = time.perf_counter_ns()
        data = zlib.decompress(self.small)
        time.sleep(0.0008)  # as for a disk: two workers and the training leave a core free
        for _ in range(REPEATED):  # small arrays: what a planted line evicts from the cache is soon there again
            np.multiply(self.pixels, np.float32(2), out=self.scaled)
        total = sum(value + 1 for value in self.few)
        for _ in range(REPEATED):
            image = np.sqrt(self.scaled, out=self.roots)
        spent = self._spend(image) if self.case != "collate" and self.switch.item() else 0
        return torch.full((3, 8, 8), float(len(data) + total)), begin, spent

    def _spend(self, image: np.ndarray) -> int:
        """The time of the planted line, ns."""
        match self.case:
            case "transform":
                began = time.perf_counter_ns()
                self.warp(image[:8, :8])
            case "decoder":
                began = time.perf_counter_ns()
                decode(self.large)
            case "lock":
                self.holder = self.holder or LockHolder()
                began = time.perf_counter_ns()
                self.holder.lock.acquire()  # planted: lock
                self.holder.lock.release()
            case "copy":
                began = time.perf_counter_ns()
                np.asarray(self.frames[::-1] / 255.0)  # planted: copy
            case "loop":
                began = time.perf_counter_ns()
                sum(value * value for value in self.values)  # planted: loop
            case "file":
                began = time.perf_counter_ns()
                lzma.open(self.path, "rb").read()  # noqa: SIM115 # planted: file
            case _:
                began = time.perf_counter_ns()
                time.sleep(0.003)  # planted: sleep
        return time.perf_counter_ns() - began


def decode(data: bytes) -> np.ndarray:
    """An array from compressed bytes."""
    return np.frombuffer(zlib.decompress(data), dtype=np.uint8)  # planted: decoder


class Collate:
    """Puts samples together; in its own case, with the planted line."""

    def __init__(self, case: str, switch: torch.Tensor) -> None:
        self.case, self.switch = case, switch
        self.noise = _RNG.random(800_000)

    def __call__(self, items: Sequence[tuple[torch.Tensor, int, int]]) -> Made:
        began = time.perf_counter_ns()
        plants = self.case == "collate" and self.switch.item()
        if plants:
            np.argsort(self.noise)  # planted: collate
        spent = time.perf_counter_ns() - began if plants else sum(item[2] for item in items)
        inputs = torch.stack([item[0] for item in items])
        info = get_worker_info()
        return Made(inputs, 0 if info is None else info.id, items[0][1], time.perf_counter_ns(), spent)


def planted_line(case: str) -> int:
    """The number of the planted line in this file."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return 1 + next(index for index, line in enumerate(lines) if line.endswith(f"# planted: {case}"))
