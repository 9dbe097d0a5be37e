"""A training loop with Hugging Face Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from benchmarks.watched.planted import (
    EPOCHS,
    Classifier,
    Stopwatch,
    Times,
    evaluation_loader,
    options,
    train_loader,
)


def main(times: Times) -> None:
    stopwatch = Stopwatch()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=times.accumulate)
    model = Classifier(times.step_ms)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader, validation = accelerator.prepare(
        model, optimizer, train_loader(times), evaluation_loader(times)
    )
    for _ in range(EPOCHS):
        stopwatch.epoch_begins()
        for index, batch in enumerate(loader, 1):
            stopwatch.batch_arrived()
            with times.traced(model), accelerator.accumulate(model):
                loss = model(**batch)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                stopwatch.optimizer_stepped()
                if times.evaluate and index // times.accumulate % times.evaluate_every == 0:
                    with stopwatch.evaluation(), torch.no_grad():
                        for validation_batch in validation:
                            model(**validation_batch)
            stopwatch.batch_requested()
    stopwatch.write(times.truth)


if __name__ == "__main__":
    main(options())
