"""Small frameworks with the order of events of Hugging Face's and Lightning's trainers, on a clock that only planted times advance.

As in the real ones: transformers fetches all micro-batches of a step at once, reports the last metrics before the event of the end,
and has no event for an exception; Lightning creates the first iterator before the event of the start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from tests.attach.planted_time import BATCH, Samples, clock

OURS = ("transformers_callback", "lightning_callback")


class Work:
    """What a training does: each micro-batch takes 30 ms after its wait of 10 ms.

    Attributes:
        fails_at: the micro-batch that raises ``error``.
        evaluates_at: the optimizer steps after which an evaluation runs.
    """

    def __init__(
        self,
        steps: int = 40,
        accumulate: int = 1,
        *,
        wait_ms: float = 10,
        fails_at: int = -1,
        error: BaseException | None = None,
        evaluates_at: Sequence[int] = (),
    ) -> None:
        self.steps, self.accumulate = steps, accumulate
        self.fails_at, self.error, self.evaluates_at = fails_at, error, evaluates_at
        self.loader = self.make_loader(steps * accumulate, wait_ms)
        self.evaluation = self.make_loader(5, 100)
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.micro_batches = 0

    def make_loader(self, batches: int, wait_ms: float) -> DataLoader[torch.Tensor]:
        return DataLoader(Samples(batches, wait_ms), batch_size=BATCH)

    def micro_batch(self, batch: torch.Tensor) -> None:
        if self.micro_batches == self.fails_at and self.error is not None:
            raise self.error
        self.micro_batches += 1
        self.model(batch).sum().backward()
        clock.pass_ms(30)

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def evaluate(self) -> None:
        with torch.no_grad():
            for batch in self.evaluation:
                self.model(batch)


# ---- transformers ------------------------------------------------------------------------------------------------------


class TrainerCallback:
    def __getattr__(self, event: str) -> Any:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return lambda *args, **others: None


class TensorBoard(TrainerCallback):
    """An integration that reports until the training ends."""

    def __init__(self) -> None:
        self.tb_writer: Any = None
        self.scalars: dict[str, float] = {}
        self.texts: dict[str, str] = {}

    def on_train_begin(self, *args: Any, **others: Any) -> None:
        self.tb_writer = SimpleNamespace(
            add_text=lambda name, text, step: self.texts.update({name: text}), flush=lambda: None
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **others: Any) -> None:
        assert self.tb_writer is not None, "the integration has ended"
        self.scalars |= logs

    def on_train_end(self, *args: Any, **others: Any) -> None:
        self.tb_writer = None


class TransformersTrainer:
    def __init__(self, work: Work, callback: Any, rank: int = 0) -> None:
        self.work, self.integration = work, TensorBoard()
        self.args = SimpleNamespace(process_index=rank)
        self.state = SimpleNamespace(global_step=0, is_world_process_zero=rank == 0)
        self.callback_handler = SimpleNamespace(callbacks=[self.integration, callback])

    def _event(self, name: str, **others: Any) -> None:
        for callback in self.callback_handler.callbacks:
            getattr(callback, name)(self.args, self.state, None, **others)

    def is_world_process_zero(self) -> bool:
        return bool(self.state.is_world_process_zero)

    def get_train_dataloader(self) -> DataLoader[torch.Tensor]:
        return self.work.loader

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._event("on_log", logs=logs)

    def train(self, resume_from_checkpoint: bool | None = None) -> str:
        """As `transformers.Trainer.train`."""
        work = self.work
        loader = self.get_train_dataloader()
        self._event("on_train_begin")
        batches: Iterator[torch.Tensor] = iter(loader)
        for step in range(work.steps):
            for batch in [next(batches) for _ in range(work.accumulate)]:
                work.micro_batch(batch)
            work.step()
            self._event("on_step_end")
            self.log({"train_runtime": 1.0, "loss": 0.5}, 0.0)
            if step in work.evaluates_at:
                work.evaluate()
        self.log({"train_runtime": 1.0, "train_loss": 0.5, "total_flos": 0.0})
        self._event("on_train_end")
        return "trained"

    fit = train

    def validate(self) -> None:
        self.work.evaluate()


# ---- Lightning ---------------------------------------------------------------------------------------------------------


class LightningCallbackBase:
    def __getattr__(self, event: str) -> Any:
        if event.startswith("on_") or event in ("setup", "teardown"):
            return lambda *args, **others: None
        raise AttributeError(event)


class Logger:
    """A logger with the interface of Lightning's for TensorBoard."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.texts: dict[str, str] = {}
        self.closed = False
        self.experiment = SimpleNamespace(add_text=lambda name, text, step: self.texts.update({name: text}))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert not self.closed, "the logger has ended"
        self.scalars |= metrics


class LightningTrainer:
    def __init__(self, work: Work, callback: Any, rank: int = 0) -> None:
        self.work, self.callback, self.integration = work, callback, Logger()
        self.loggers = [self.integration]
        self.global_rank, self.is_global_zero, self.global_step = rank, rank == 0, 0

    def _event(self, name: str, *others: Any) -> None:
        getattr(self.callback, name)(self, None, *others)

    def fit(self) -> str:
        """As `lightning.pytorch.Trainer.fit`."""
        self.integration.closed = False
        try:
            self._event("setup", "fit")
            self.work.evaluate()  # the sanity check
            batches = iter(self.work.loader)
            self._event("on_train_start")
            self._steps(batches)
            self._event("on_train_end")
            self.integration.closed = True
            self._event("on_fit_end")
            self._event("teardown", "fit")
        except BaseException as error:
            self._event("on_exception", error)
            self.integration.closed = True
            raise
        return "trained"

    def _steps(self, batches: Iterator[torch.Tensor]) -> None:
        work = self.work
        for step in range(work.steps):
            for _ in range(work.accumulate):
                work.micro_batch(next(batches))
            work.step()
            self.global_step += 1
            if step in work.evaluates_at:
                work.evaluate()

    def validate(self) -> None:
        try:
            self._event("setup", "validate")
            self.work.evaluate()
            self._event("teardown", "validate")
        except BaseException as error:
            self._event("on_exception", error)
            raise


# ---- installation ------------------------------------------------------------------------------------------------------


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes these the installed frameworks. `forget` must be called after it."""
    trainer = type("Trainer", (TransformersTrainer,), {"train": TransformersTrainer.train})  # `train` will be replaced
    modules = {
        "transformers": {"Trainer": trainer, "TrainerCallback": TrainerCallback},
        "accelerate": {},
        "lightning": {},
        "lightning.pytorch": {"Callback": LightningCallbackBase, "Trainer": LightningTrainer},
    }
    forget()
    for name, content in modules.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


def remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the frameworks look as if they were not installed."""
    forget()
    for name in ("transformers", "accelerate", "lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)


def forget() -> None:
    """Removes the callbacks, which were made for the frameworks that were there at their import."""
    for name in OURS:
        sys.modules.pop(f"loaderlab.attach.{name}", None)
