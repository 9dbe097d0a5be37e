"""A training loop in plain PyTorch."""

from __future__ import annotations

import torch

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
    loader, validation = train_loader(times), evaluation_loader(times)
    model = Classifier(times.step_ms)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(EPOCHS):
        stopwatch.epoch_begins()
        for index, batch in enumerate(loader, 1):
            stopwatch.batch_arrived()
            last = index % times.accumulate == 0
            with times.traced(model):
                loss = model(**batch)
                (loss / times.accumulate).backward()
                if last:
                    optimizer.step()
                    optimizer.zero_grad()
                    stopwatch.optimizer_stepped()
            if last and times.evaluate and index // times.accumulate % times.evaluate_every == 0:
                with stopwatch.evaluation(), torch.no_grad():
                    for validation_batch in validation:
                        model(**validation_batch)
            stopwatch.batch_requested()
    stopwatch.write(times.truth)


if __name__ == "__main__":
    main(options())
