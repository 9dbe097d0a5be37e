"""Measures how the loaders of a Lightning `Trainer` feed its training.

from loaderlab import LightningCallback

trainer = Trainer(..., callbacks=[LightningCallback()])
trainer.fit(model)
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from loaderlab.attach.measuring_callback import MeasuringCallback, harmless
from loaderlab.attach.torch_terms import in_torch_terms
from loaderlab.diagnosis.evidence import Advice
from loaderlab.system.extras import require

PACKAGES = ("lightning.pytorch", "pytorch_lightning")  # two names of the same framework


def _base() -> Any:
    """The callback class of the package that the program has imported, or of the one that is installed."""
    for name in PACKAGES:
        if (module := sys.modules.get(name)) is not None:
            return module.Callback
    for name in PACKAGES:
        if find_spec(name.partition(".")[0]) is not None:
            return import_module(name).Callback
    return object  # the constructor says so


Callback: Any = _base()


def in_lightning_terms(advice: Advice) -> str:
    """How to follow the advice in Lightning; empty if there is no such setting."""
    if advice.setting == "precision":
        return 'Trainer(precision="bf16-mixed")' if advice.value == "bf16" else ""
    if advice.setting == "loader.non_blocking":
        return ""  # Lightning's own copies do not block
    return in_torch_terms(advice)


class LightningCallback(MeasuringCallback, Callback):  # type: ignore[misc]
    """A callback of a Lightning `Trainer`: prints the verdict on stderr when a `fit` ends, also by an exception.

    Validation, test and prediction alone are not measured.

    Attributes:
        reading: the whole result of the last training; None before its end.
        verdict: its verdict.
        figures: its metrics.

    Args:
        log: also pass the metrics to each of the trainer's loggers. TensorBoard and MLflow get the text of the verdict too.
        max_steps: measure only the first optimizer steps; None: all of them.
        json: file to write the result to.
        html: file to write the result to, as a page.

    Raises:
        UserError: Lightning is not installed, or a file cannot be written.
    """

    training = "Trainer.fit"

    def _prepare(self) -> None:
        if Callback is object:
            require(f"loaderlab.{type(self).__name__}", "lightning")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._begin(trainer.global_rank)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._finish(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._publish()  # the progress bar has ended

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._finish(trainer)
        self._publish(in_a_line=True)

    def _finish(self, trainer: Any) -> None:
        if self._end(in_lightning_terms) and self._logs and trainer.is_global_zero:
            for logger in trainer.loggers:
                with harmless(f"the metrics could not be logged by {type(logger).__name__}"):
                    logger.log_metrics(self.figures, step=trainer.global_step)
                    self._log_text(logger, trainer.global_step)

    def _log_text(self, logger: Any, step: int) -> None:
        """`Logger.log_metrics` is for numbers."""
        experiment = getattr(logger, "experiment", None)
        if self.verdict is None or experiment is None:
            return
        if hasattr(experiment, "add_text"):  # TensorBoard
            experiment.add_text("verdict", str(self.verdict), step)
        elif hasattr(experiment, "set_tag") and hasattr(logger, "run_id"):  # MLflow
            for name, value in self.verdict.tags().items():
                experiment.set_tag(logger.run_id, name, value)
