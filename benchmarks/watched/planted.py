"""Samples and a model with planted times, and a stopwatch that knows the true share of waiting. Knows nothing of loaderlab."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

BATCH, TOKENS, WORDS, CLASSES, EPOCHS, EVALUATION_BATCHES = 2, 16, 64, 2, 2, 2
SAMPLES_NS = [
    0
]  # time in the dataset and in `collate` of this process, which is all of the loader's work without workers


@dataclass(frozen=True)
class Times:
    """What is planted.

    Attributes:
        sample_ms: time that a sample takes.
        step_ms: time that the forward pass of one batch takes.
        steps: of the optimizer, over all epochs.
    """

    workers: int
    accumulate: int
    sample_ms: float
    step_ms: float
    steps: int
    evaluate: bool
    truth: Path | None
    trace_step: bool

    @property
    def num_samples(self) -> int:
        """Of one epoch."""
        return BATCH * self.accumulate * (self.steps // EPOCHS)

    def traced(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A step, which TraceML measures only if the program says so."""
        if not self.trace_step:
            return nullcontext()
        from traceml_ai import trace_step

        step: AbstractContextManager[Any] = trace_step(model)
        return step

    @property
    def evaluate_every(self) -> int:
        """The number of optimizer steps between two evaluations."""
        return max(1, self.steps // EPOCHS // 2)


def options() -> Times:
    """The times from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1, help="batches per optimizer step")
    parser.add_argument("--sample-ms", type=float, default=2.0)
    parser.add_argument("--step-ms", type=float, default=20.0, help="of each batch")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps")
    parser.add_argument("--evaluate", action="store_true", help="twice per epoch")
    parser.add_argument("--trace-step", action="store_true", help="mark the steps for TraceML")
    parser.add_argument("--truth", type=Path, help="file for the times of each optimizer step")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times = Times(**vars(parser.parse_args()))
    if times.trace_step:
        import traceml_ai

        traceml_ai.init(mode="auto")
    return times


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Samples that sleep. They need no core."""

    def __init__(self, num_samples: int, sample_ms: float) -> None:
        self.num_samples, self.sample_ms = num_samples, sample_ms

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        began = time.perf_counter_ns()
        time.sleep(self.sample_ms / 1e3)
        sample = {"input_ids": torch.full((TOKENS,), index % WORDS), "labels": torch.tensor(index % CLASSES)}
        SAMPLES_NS[0] += time.perf_counter_ns() - began
        return sample


def collate(samples: list[dict[str, torch.Tensor]]) -> Any:
    """A batch."""
    began = time.perf_counter_ns()
    batch = default_collate(samples)
    SAMPLES_NS[0] += time.perf_counter_ns() - began
    return batch


def train_loader(times: Times) -> DataLoader[Any]:
    samples = Samples(times.num_samples, times.sample_ms)
    return DataLoader(samples, BATCH, shuffle=True, num_workers=times.workers, collate_fn=collate)


def evaluation_samples(times: Times) -> Samples:
    return Samples(EVALUATION_BATCHES * BATCH, times.sample_ms)


def evaluation_loader(times: Times) -> DataLoader[Any]:
    return DataLoader(evaluation_samples(times), BATCH, num_workers=times.workers, collate_fn=collate)


class Classifier(nn.Module):
    """A model that sleeps in its forward pass, and returns its loss."""

    def __init__(self, step_ms: float) -> None:
        super().__init__()
        self.step_s = step_ms / 1e3
        self.embedding = nn.Embedding(WORDS, 32)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        time.sleep(self.step_s)
        return nn.functional.cross_entropy(self.head(self.embedding(input_ids).mean(1)), labels)


@dataclass
class Cycle:
    """The time from one optimizer step to the next.

    Attributes:
        position: in its epoch.
        samples_ms: spent in the dataset and in `collate` of this process.
    """

    position: int
    wait_ms: float = 0.0
    work_ms: float = 0.0
    samples_ms: float = 0.0


@dataclass
class Stopwatch:
    """The program's own clock. Call the methods where the named things happen."""

    cycles: list[Cycle] = field(default_factory=list)
    _cycle: Cycle | None = None
    _stepped: bool = False
    _position: int = 0
    _since_ns: int = 0
    _samples_ns: int = 0

    def epoch_begins(self) -> None:
        self._cycle, self._stepped, self._position = None, False, 0
        self.batch_requested()

    def batch_requested(self) -> None:
        """The next batch is about to be requested; the work since the last one has ended."""
        passed_ms = self._lap()
        if self._cycle is not None:
            self._cycle.work_ms += passed_ms
        if self._stepped and self._cycle is not None:
            self.cycles.append(self._cycle)
            self._position += 1
            self._cycle, self._stepped = None, False
        if self._cycle is None:
            self._cycle = Cycle(self._position)

    def batch_arrived(self) -> None:
        assert self._cycle is not None, "no batch was requested"
        self._cycle.wait_ms += self._lap()
        self._cycle.samples_ms += (SAMPLES_NS[0] - self._samples_ns) / 1e6
        self._samples_ns = SAMPLES_NS[0]

    def optimizer_stepped(self) -> None:
        self._stepped = True

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Its time counts as neither."""
        began = time.perf_counter_ns()
        yield
        self._since_ns += time.perf_counter_ns() - began
        self._samples_ns = SAMPLES_NS[0]

    def write(self, path: Path | None) -> None:
        """Writes the cycles that have ended."""
        if path is not None:
            path.write_text(json.dumps([asdict(cycle) for cycle in self.cycles]), encoding="utf-8")

    def _lap(self) -> float:
        now = time.perf_counter_ns()
        passed_ms = (now - self._since_ns) / 1e6
        self._since_ns = now
        return passed_ms
