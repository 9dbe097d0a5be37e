"""Measures how the loader of a Hugging Face `Trainer` feeds its training.

from loaderlab import TransformersCallback

trainer = Trainer(..., callbacks=[TransformersCallback()])
trainer.train()
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from loaderlab.attach.measuring_callback import MeasuringCallback, harmless
from loaderlab.attach.torch_terms import in_torch_terms
from loaderlab.attach.wrapping import wrap
from loaderlab.diagnosis.evidence import Advice
from loaderlab.system.extras import require

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError:  # the constructor says so
    Trainer = TrainerCallback = object

FINAL = {"train_loss", "total_flos"}  # logged together only at the end, while the reporting integrations are still open
IN_ARGUMENTS = {  # loaderlab setting to its equivalent in TrainingArguments
    "loader.num_workers": "dataloader_num_workers={value}",
    "loader.prefetch_factor": "dataloader_prefetch_factor={value}",
    "loader.persistent_workers": "dataloader_persistent_workers=True",
    "loader.pin_memory": "dataloader_pin_memory=True",
    "loader.non_blocking": "accelerator_config={{'non_blocking': True}}",
    "batch_size": "per_device_train_batch_size={value}",
    "model.compile": "torch_compile=True",
    "precision": "bf16=True",
}


def in_arguments(advice: Advice) -> str:
    """How to follow the advice in `TrainingArguments`; empty if they have no such setting."""
    template = IN_ARGUMENTS.get(advice.setting, "")
    if advice.setting == "precision" and advice.value != "bf16":
        return ""
    return f"TrainingArguments({template.format(value=advice.value)})" if template else ""


class TransformersCallback(MeasuringCallback, TrainerCallback):  # type: ignore[misc]
    """A callback of a Hugging Face `Trainer`: prints the verdict on stderr when a training ends, also by an exception.

    Attributes:
        reading: the whole result of the last training; None before its end.
        verdict: its verdict.
        figures: its metrics.

    Args:
        log: also pass the metrics to `Trainer.log`, which reports them to each integration (``report_to``). TensorBoard
            and MLflow get the text of the verdict too.
        max_steps: measure only the first optimizer steps; None: all of them.
        json: file to write the result to.
        html: file to write the result to, as a page.

    Raises:
        UserError: transformers is not installed, or a file cannot be written.
    """

    training = "Trainer.train"

    _trainer: Any = None  # while its `train` runs

    def _prepare(self) -> None:
        require(f"loaderlab.{type(self).__name__}", "transformers", "accelerate")
        if not _wrapped:
            _wrapped.append(True)
            wrap(Trainer, "train", _reporting)

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._begin(args.process_index)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        if logs is not None and logs.keys() >= FINAL:
            self._finish()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._finish()
        self._publish()

    def _train(self, trainer: Any) -> None:
        self._trainer = trainer

    def _left(self, *, failed: bool) -> None:
        """`Trainer.train` has ended; after an exception, no event of the callback has said so."""
        if failed:
            self._finish()
            self._publish(in_a_line=True)
        self._trainer = None

    def _finish(self) -> None:
        if self._end(self._terms()) and self._logs and self._trainer is not None and self.verdict is not None:
            with harmless("the metrics could not be logged"):
                self._trainer.log(self.figures)
                if self._trainer.is_world_process_zero():
                    self._log_text(self._trainer)

    def _terms(self) -> Callable[[Advice], str]:
        """The trainer's arguments have no effect if a subclass creates the loader itself."""
        own = self._trainer is not None and type(self._trainer).get_train_dataloader is not Trainer.get_train_dataloader
        return in_torch_terms if own else in_arguments

    def _log_text(self, trainer: Any) -> None:
        """`Trainer.log` is for numbers."""
        assert self.verdict is not None
        for callback in trainer.callback_handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_text("verdict", str(self.verdict), trainer.state.global_step)
                writer.flush()
            if type(callback).__name__ == "MLflowCallback" and (mlflow := sys.modules.get("mlflow")) is not None:
                mlflow.set_tags(self.verdict.tags())


_wrapped: list[bool] = []


def _reporting(original: Callable[..., Any]) -> Callable[..., Any]:
    """For `Trainer.train`: lets our callbacks know which trainer runs, and how it ended. There is no event for either."""

    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        callbacks = [entry for entry in self.callback_handler.callbacks if isinstance(entry, TransformersCallback)]
        for callback in callbacks:
            callback._train(self)
        failed = True
        try:
            result = original(self, *args, **kwargs)
            failed = False
            return result
        finally:
            for callback in callbacks:
                callback._left(failed=failed)

    return train
