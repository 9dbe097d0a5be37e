"""Invented records of runs, for tests of the code that reads records."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

from loaderlab.tracking.records import RunRecord

NUMBERS = count(1)
DEVICE = "a processor (2 cores)"


def recorded(
    rate: float,
    *,
    repeat: int = 1,
    status: str = "FINISHED",
    tags: dict[str, str] | None = None,
    figures: dict[str, float] | None = None,
    parent: str | None = "parent",
    **settings: Any,
) -> RunRecord:
    """One run of native x fp32 on digits unless other settings say so; ``__`` in a name stands for a full stop."""
    number = next(NUMBERS)
    base = {
        "loader.name": "native",
        "loader.num_workers": "1",
        "precision.name": "fp32",
        "model.name": "cnn",
        "data.name": "digits",
        "batch_size": "64",
        "epochs": "2",
        "seed": "0",
        "tracking.uri": "auto",
    }
    own = {name.replace("__", "."): str(value) for name, value in settings.items()}
    if own.get("loader.name") not in (None, "native"):
        del base["loader.num_workers"]
    measured = _figures(rate) if rate > 0 else {}
    return RunRecord(
        run_id=f"{number:032x}",
        name=" ".join(f"{key}={value}" for key, value in own.items()) + f" repeat={repeat}",
        status=status,
        parent_id=parent,
        started_ms=number,
        settings=base | own | {"repeat": str(repeat)},
        figures=measured | (figures or {}),
        tags={"device.name": DEVICE, "verdict": "starved"} | (tags or {}),
    )


def arms(rates: dict[str, list[float]], setting: str = "loader.name", **more: Any) -> list[RunRecord]:
    """Interleaved repeats of an arm for each value of a setting, given its rates."""
    num_repeats = max(map(len, rates.values()))
    settings: dict[str, dict[str, Any]] = {value: {setting.replace(".", "__"): value, **more} for value in rates}
    return [
        recorded(values[index], repeat=index + 1, **settings[value])
        for index in range(num_repeats)
        for value, values in rates.items()
        if index < len(values)
    ]


def by_precision(rates: Mapping[tuple[str, str], tuple[float, float]]) -> list[RunRecord]:
    """Three interleaved repeats of each loader and precision, given its rate and its ceiling."""
    return [
        recorded(
            rate,
            repeat=repeat,
            loader__name=loader,
            precision__name=precision,
            figures={"rate/ceiling_samples_per_s": ceiling},
        )
        for repeat in (1, 2, 3)
        for (loader, precision), (rate, ceiling) in rates.items()
    ]


def _figures(rate: float) -> dict[str, float]:
    return {
        "rate/samples_per_s": rate,
        "time/step_ms": 64e3 / rate,
        "time/train_s": 3000 / rate,
        "starvation/wait_pct": 20.0,
        "starvation/starved_pct": 20.0,
        "rate/ceiling_samples_per_s": 1.5 * rate,
        "starvation/efficiency_pct": 100 / 1.5,
        "memory/host_peak_mib": 900.0,
        "cpu/utilization_pct": 80.0,
        "time/wait_ms": 10.0,
        "time/forward_ms": 20.0,
        "time/backward_ms": 30.0,
        "val/accuracy": 0.98,
        "val/loss": 0.1,
        "train/loss": 0.2,
    }
