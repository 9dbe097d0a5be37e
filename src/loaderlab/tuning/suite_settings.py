"""A candidate as the settings of a run. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from loaderlab.config import (
    AUTO,
    CheckpointConfig,
    DaliLoader,
    EncodedData,
    HostLoader,
    LoaderConfig,
    NativeLoader,
    ResidentLoader,
    RunFailIfConfig,
    SpdlLoader,
    TrainConfig,
)
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Candidate
from loaderlab.tuning.trial import Trial
from loaderlab.tuning.typed import FIELDS, OF_WORKERS

KINDS: Mapping[str, type[LoaderConfig]] = {
    NATIVE: NativeLoader,
    SPDL: SpdlLoader,
    DALI: DaliLoader,
    RESIDENT: ResidentLoader,
}
WITHOUT_WORKERS = tuple(FIELDS[NATIVE][name] for name in OF_WORKERS)  # settings that are refused then
PROBE_S = 1.0  # of each probe in a trial
TRUTHS = {"true": True, "false": False}


def loader_settings(candidate: Candidate, current: Candidate) -> dict[str, Any]:
    """The settings of the loader that differ from those of the command, by name without the group.

    Args:
        current: the settings that the command's configuration has in effect.
    """
    backend = candidate.branch.backend
    is_other = backend != current.branch.backend
    settings: dict[str, Any] = {}
    for name, setting in FIELDS[backend].items():
        value = getattr(candidate, name)
        if value is not None and (is_other or value != getattr(current, name)):
            settings[setting] = value
    if candidate.makers == 0 and backend == NATIVE:  # what the command says about workers would be refused
        settings |= dict.fromkeys(WITHOUT_WORKERS, AUTO)
    return settings


def loader_of(candidate: Candidate, current: Candidate, base: LoaderConfig) -> LoaderConfig:
    """The loader of a candidate.

    Args:
        base: the loader of the command. Another backend keeps the settings that both have.
    """
    kind = KINDS[candidate.branch.backend]
    settings = loader_settings(candidate, current)
    if isinstance(base, kind):
        return replace(base, **settings)
    shared = {entry.name for entry in fields(kind)} & {entry.name for entry in fields(base)}
    if not isinstance(base, HostLoader):
        shared -= {"num_threads"}
    kept = {name: getattr(base, name) for name in shared}
    return kind(**(kept | settings))


def run_of(candidate: Candidate, current: Candidate, base: TrainConfig) -> TrainConfig:
    """The run of the command with the settings of a candidate."""
    config = replace(base, loader=loader_of(candidate, current, base.loader))
    for name, text in candidate.branch.also:
        value = TRUTHS.get(text, text)
        group, _, setting = name.rpartition(".")
        if group == "loader":
            config = replace(config, loader=replace(config.loader, **{setting: value}))
        else:
            assert group == "data.transform", name
            assert isinstance(config.data, EncodedData) or hasattr(config.data, "transform"), name
            transform = replace(config.data.transform, **{setting: value})
            config = replace(config, data=replace(config.data, transform=transform))  # type: ignore[call-arg]
    return config


def trial_config(trial: Trial, current: Candidate, base: TrainConfig, minutes: float) -> TrainConfig:
    """The run of a trial: without evaluation and checkpoints, and with the probes that the trial asks for.

    Args:
        minutes: time limit, unless the command has one.
    """
    measure = replace(
        base.measure,
        seconds=trial.seconds,
        epoch_steps=base.measure.epoch_steps if trial.epoch_steps is None else trial.epoch_steps,
        ceiling=trial.probes,
        loader_alone=trial.probes or trial.alone,
        contention=AUTO,
        cold=False,
        parity=False,
        profile=False,
        probe_s=PROBE_S,
    )
    return replace(
        run_of(trial.candidate, current, replace(base, fail_if=RunFailIfConfig(), steps=None, epochs=AUTO)),
        measure=measure,
        evaluate=False,
        checkpoint=CheckpointConfig(every_minutes=None, dir=base.checkpoint.dir),
        sweep=replace(base.sweep, job_minutes=base.sweep.job_minutes or minutes),
    )


def overrides_of(candidate: Candidate, current: Candidate, base: LoaderConfig) -> list[str]:
    """The overrides that give the command the settings of a candidate: see `_typed_values`.

    Args:
        current, base: see `loader_of`.
    """
    backend, values = candidate.branch.backend, _typed_values(candidate, current, base)
    overrides = [f"loader={backend}"] if backend != current.branch.backend or not values else []
    return [*overrides, *(f"{name}={text}" for name, text in [*values.items(), *candidate.branch.also])]


def file_of(candidate: Candidate, current: Candidate, base: LoaderConfig, note: str) -> str:
    """A file for Hydra with the same settings as `overrides_of`.

    Args:
        current, base: see `loader_of`.
        note: the first comment.
    """
    comments = [f"# {line}" for line in note.splitlines()]
    head = ["# @package _global_", *comments, "defaults:", f"  - override /loader: {candidate.branch.backend}"]
    values = _typed_values(candidate, current, base)
    return "\n".join([*head, *_nested([*values.items(), *candidate.branch.also])]) + "\n"


def _typed_values(candidate: Candidate, current: Candidate, base: LoaderConfig) -> dict[str, str]:
    """The makers, the queue, and what differs from the command's settings, as text by dotted name. Everything else has its value by
    itself: from what was typed, or from ``auto``."""
    named = list(FIELDS[candidate.branch.backend].items())[:2]  # makers and queue
    values = {setting: getattr(candidate, name) for name, setting in named if getattr(candidate, name) is not None}
    differing = loader_settings(candidate, current)
    values |= {name: value for name, value in differing.items() if value != AUTO or getattr(base, name, AUTO) != AUTO}
    return {f"loader.{name}": _text(value) for name, value in values.items()}


def _nested(entries: list[tuple[str, str]]) -> list[str]:
    """The lines of YAML for dotted names; names of one group follow each other."""
    lines: list[str] = []
    opened: list[str] = []
    for name, text in sorted(entries, key=lambda entry: entry[0].rpartition(".")[0]):
        *groups, setting = name.split(".")
        if groups != opened:
            lines += [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
            opened = groups
        lines.append(f"{'  ' * len(groups)}{setting}: {text}")
    return lines


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
