"""A training with Hugging Face's Trainer: a BERT of two small layers, which sleeps before each forward pass. The subclass only adds the stopwatch."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.watched.planted import (
    BATCH,
    CLASSES,
    EPOCHS,
    WORDS,
    Samples,
    Stopwatch,
    Times,
    collate,
    evaluation_samples,
    options,
)


class TimedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that has a stopwatch."""

    stopwatch: Stopwatch

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """All batches of an optimizer step."""
        self.stopwatch.batch_requested()
        batches = super().get_batch_samples(*args, **kwargs)
        self.stopwatch.batch_arrived()
        return batches

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        with self.stopwatch.evaluation():
            return super().evaluate(*args, **kwargs)


class Timed(TrainerCallback):  # type: ignore[misc]
    """Informs a stopwatch."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.stopwatch.epoch_begins()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.stopwatch.batch_requested()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.stopwatch.optimizer_stepped()


def arguments(times: Times, folder: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=BATCH,
        gradient_accumulation_steps=times.accumulate,
        num_train_epochs=EPOCHS,
        dataloader_num_workers=times.workers,
        dataloader_pin_memory=False,
        eval_strategy="steps" if times.evaluate else "no",
        eval_steps=times.evaluate_every,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )


def main(times: Times) -> None:
    stopwatch = Stopwatch()
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=CLASSES,
    )
    model = BertForSequenceClassification(config)
    model.register_forward_pre_hook(lambda *_: time.sleep(times.step_ms / 1e3))
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(
            model=model,
            args=arguments(times, folder),
            train_dataset=Samples(times.num_samples, times.sample_ms),
            eval_dataset=evaluation_samples(times) if times.evaluate else None,
            data_collator=collate,
            callbacks=[Timed(stopwatch)],
        )
        trainer.stopwatch = stopwatch
        trainer.train()
    stopwatch.write(times.truth)


if __name__ == "__main__":
    main(options())
