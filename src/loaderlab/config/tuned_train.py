"""Settings of `loaderlab tune`: those of a run, and those of the tuner; and checks for contradictions between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from loaderlab.config.base import AUTO, refuse, setting
from loaderlab.config.loader import ReplayLoader, ResidentLoader
from loaderlab.config.train import LOCAL, TrainConfig
from loaderlab.config.tune import TuneConfig

LENGTHS = ("steps", "epochs")  # settings that a trial replaces


@dataclass
class TunedTrainConfig(TrainConfig):
    """A run whose loader is tuned."""

    tune: TuneConfig = setting(TuneConfig, "what the tuner looks for, and for how long")

    @property
    def run(self) -> TrainConfig:
        """The settings of the run alone."""
        return TrainConfig(**{entry.name: getattr(self, entry.name) for entry in fields(TrainConfig)})


def refuse_untunable(config: TunedTrainConfig, overrides: Sequence[str] = ()) -> None:
    """Rejects runs that cannot be tuned.

    Args:
        overrides: as typed.

    Raises:
        WrongUsage: several ranks, a loader without workers or threads, a setting that has no effect on the tuner.
    """
    _refuse_lengths(overrides)
    if config.launch.is_distributed:
        raise refuse(
            "launch",
            config.launch.name,
            "the tuner measures one process with its share of the cores",
            "launch=none",
            is_example=False,
        )
    if isinstance(config.loader, ReplayLoader | ResidentLoader):
        why = "it loads nothing" if isinstance(config.loader, ReplayLoader) else "it has no workers and no threads"
        raise refuse(
            "loader", config.loader.name, f"{why}, so there is nothing to tune", "loader=native", is_example=False
        )
    if config.resume is not None:
        raise refuse("resume", config.resume, "each trial starts from the beginning", "resume=null", is_example=False)
    if config.fail_if.utilization_below is not None:
        limit = f"{config.fail_if.utilization_below:g}"
        raise refuse(
            "fail_if.utilization_below",
            limit,
            "is a gate of a run; the tuner has a limit of its own",
            "tune.max_starved_pct=5 fail_if.utilization_below=null",
        )
    if config.sweep.on != LOCAL:
        raise refuse("sweep.on", config.sweep.on, "the tuner runs its trials here", "sweep.on=local", is_example=False)


def _refuse_lengths(overrides: Sequence[str]) -> None:
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key in LENGTHS and value not in ("null", AUTO):
            raise refuse(
                key,
                value,
                "has no effect on the tuner, because each trial ends after a few seconds",
                f"tune.minutes=3, or leave out {key}",
                is_example=False,
            )
