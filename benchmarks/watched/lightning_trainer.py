"""A training with Lightning. The profiler and the callback only inform the stopwatch."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

from benchmarks.watched.planted import (
    EPOCHS,
    Classifier,
    Stopwatch,
    Times,
    evaluation_loader,
    options,
    train_loader,
)

FETCH = "[_TrainingEpochLoop].train_dataloader_next"


class Module(LightningModule):  # type: ignore[misc]
    """The model and its optimizer."""

    def __init__(self, step_ms: float) -> None:
        super().__init__()
        self.model = Classifier(step_ms)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(**batch)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.model(**batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class FetchTimes(Profiler):  # type: ignore[misc]
    """Informs a stopwatch when batches are fetched."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        super().__init__()
        self.stopwatch = stopwatch

    def start(self, action_name: str) -> None:
        if action_name == FETCH:
            self.stopwatch.batch_requested()

    def stop(self, action_name: str) -> None:
        if action_name == FETCH:
            self.stopwatch.batch_arrived()


class Timed(Callback):  # type: ignore[misc]
    """Informs a stopwatch about epochs and optimizer steps."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.steps = 0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.stopwatch.epoch_begins()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.stopwatch.batch_requested()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.stopwatch.optimizer_stepped()


def time_evaluations(trainer: Trainer, stopwatch: Stopwatch) -> None:
    """The callbacks of a validation come after its workers were started, so the whole loop is timed."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    run = validation.run

    def timed() -> Any:
        with stopwatch.evaluation():
            return run()

    validation.run = timed


def main(times: Times) -> None:
    stopwatch = Stopwatch()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        accumulate_grad_batches=times.accumulate,
        val_check_interval=times.evaluate_every * times.accumulate if times.evaluate else 1.0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=FetchTimes(stopwatch),
        callbacks=[Timed(stopwatch)],
    )
    time_evaluations(trainer, stopwatch)
    trainer.fit(Module(times.step_ms), train_loader(times), evaluation_loader(times) if times.evaluate else None)
    stopwatch.write(times.truth)


if __name__ == "__main__":
    main(options())
