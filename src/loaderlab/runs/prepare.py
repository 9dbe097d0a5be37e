"""The first stage of a run: everything up to the first batch."""

from __future__ import annotations

import gc
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from loaderlab import data
from loaderlab.config import AUTO, TrainConfig, UserError, choice
from loaderlab.data.spec import DataSpec
from loaderlab.device.base import Device
from loaderlab.device.emulated import Emulated
from loaderlab.device.random_states import random_states_kept
from loaderlab.loaders.contract import EpochPlan
from loaderlab.loaders.first_batch import batch_bytes
from loaderlab.loaders.resolve import in_force
from loaderlab.parity.check import check_run
from loaderlab.parity.status import PARITY
from loaderlab.runs.accelerator_note import accelerator_note
from loaderlab.runs.context import RunContext
from loaderlab.runs.loader_set import LoaderSet
from loaderlab.runs.model_step import first_batches, model_step, own_step_text
from loaderlab.runs.rank_checks import check_samples
from loaderlab.runs.resolve import RunSettings, resolve_run
from loaderlab.runs.sample_counts import data_fact, samples_text
from loaderlab.runs.shared_memory import check_shared_memory, sample_bytes
from loaderlab.system.files import write_text
from loaderlab.system.ranks import Ranks
from loaderlab.system.versions import versions
from loaderlab.training import checkpoint, models, optimizers
from loaderlab.training.data_parallel import wrapped
from loaderlab.training.emulated import EmulatedStep
from loaderlab.training.first_step import load_kernels
from loaderlab.training.loop import Parts
from loaderlab.training.precision import Precision
from loaderlab.training.run_length import RunLength
from loaderlab.training.step import ModelStep, Progress, TrainingStep


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train.

    Attributes:
        device: the device of the training step.
        plan: the training batches.
        batch_bytes: the memory of a full batch; of the first one, if the batches are a user's own.
        progress: where training starts; the loop advances it.
        length: the planned number of updates.
        settings: the run's settings that depend on its loader and device.
        facts: the effective settings, for the report page.
        mismatch: why the speed of its emulated accelerator may not fit the samples; None if it does, or on a real device.
        parity_s: the seconds spent checking the loader, which are not part of the start-up time.
    """

    device: Device
    spec: DataSpec
    plan: EpochPlan
    batch_bytes: int
    parts: Parts
    progress: Progress
    length: RunLength
    settings: RunSettings
    facts: Mapping[str, str]
    mismatch: str | None
    parity_s: float


def prepare(context: RunContext, loaders: LoaderSet, device: Device) -> Prepared:
    """Prepares the samples, the loaders and the model, checks the loader if requested, and prints the effective settings.

    Raises:
        UserError: some settings do not fit together, or the loader does not do the same work as the reference.
    """
    config = context.config
    device.bind_thread()  # events and streams are those of the current device
    _seed(config)
    precision = None if isinstance(device, Emulated) else Precision(config.precision, device)
    spec = _samples(context)
    if (group := context.group) is not None:
        check_samples(group, spec)
    parity, parity_s = _check_parity(context, spec, device) if config.measure.parity else ("", 0.0)
    plan = loaders.plan(spec)
    train_loader = loaders.training(spec, plan, device)
    val_loader = loaders.validation(spec, device)
    first = first_batches(config, spec, plan, val_loader is not None, device)
    num_bytes = batch_bytes(first[0]) if spec.whole_batches else config.batch_size * sample_bytes(spec)
    check_shared_memory(
        spec, num_bytes / config.batch_size, config.batch_size, train_loader, val_loader, context.terminal
    )
    settings = resolve_run(config, device.capabilities, train_loader.capabilities)
    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)
    epoch_steps = train_loader.num_steps
    if config.measure.seconds is not None and train_loader.knows_length:  # a shorter epoch makes no shorter schedule
        epoch_steps = plan.all_steps
    if group is not None:  # the length that a rank's iterable dataset claims may be another
        epoch_steps = group.broadcast(epoch_steps)
    length = RunLength(config.planned_epochs, config.steps, config.accumulate, epoch_steps, train_loader.knows_length)
    progress = Progress()
    step: TrainingStep
    if isinstance(device, Emulated):
        step = EmulatedStep(device, config.accelerator, config.batch_size, group)
    else:
        assert precision is not None
        step = model_step(config, spec, plan, precision, length, device, first)
        if config.resume is not None:
            progress = _resume(context, step, length, plan)
        if group is not None:
            step = wrapped(step, group, device)
            _seed_rank(config, group.ranks)
    parts = Parts(step, train_loader, val_loader, device, group)
    mismatch = accelerator_note(config.accelerator, spec) if config.accelerator.is_emulated else None
    facts = _report(context, device, spec, parts, mismatch)
    has_kernels = device.capabilities.asynchronous and not config.model.compile
    if isinstance(step, ModelStep) and has_kernels and not config.has_own_step:  # that step has been tried out
        load_kernels(step, spec, min(config.batch_size, spec.train.num_samples or config.batch_size), device)
    collect_garbage()
    return Prepared(
        device=device,
        spec=spec,
        plan=plan,
        batch_bytes=num_bytes,
        parts=parts,
        progress=progress,
        length=length,
        settings=settings,
        facts=facts | ({"parity": parity} if parity else {}),
        mismatch=mismatch,
        parity_s=parity_s,
    )


def collect_garbage() -> None:
    """Collects garbage before the loop. It takes 0.1 to 0.4 s.

    In the loop, the meter's records would soon make Python collect all objects, those of the imports too: with steps of 0.5 ms this
    happened several times in a probe of 2 s and made it 16 % slower. After a collection it happens much more rarely. Workers
    would also inherit garbage, with its memory on the device and its pinned memory.
    """
    gc.collect()


def _seed(config: TrainConfig) -> None:
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
        torch.use_deterministic_algorithms(True)  # only if requested: it imports the compiler, for seconds
    torch.backends.cudnn.benchmark = not config.deterministic
    _set_seeds(config.effective_seed)


def _seed_rank(config: TrainConfig, ranks: Ranks) -> None:
    """Gives each rank random numbers of its own for what differs between samples, such as dropout and a dataset's augmentation; the
    weights are the same already."""
    _set_seeds(int(np.random.SeedSequence([config.effective_seed % 2**32, ranks.rank]).generate_state(1)[0]))


def _set_seeds(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _samples(context: RunContext) -> DataSpec:
    with context.terminal.progress("preparing the samples", None) as bar:

        def on_progress(done: int, total: int | None) -> None:
            if bar.due(done):
                bar.update(done, "files" if total is None else f"of {total:,} files")

        config = context.config
        return data.build(config.data, on_progress, whole_batches=config.has_whole_batches)


def _check_parity(context: RunContext, spec: DataSpec, device: Device) -> tuple[str, float]:
    """The result in one line, and the seconds that the check took.

    Raises:
        UserError: the loader does not do the same work as the reference.
    """
    started, config = time.monotonic(), context.config
    with (
        random_states_kept(device.torch_device),
        context.terminal.progress("checking the loader against the reference", None),
    ):
        result = check_run(config, spec, device)
    seconds = time.monotonic() - started
    context.terminal.say(f"{'parity':<10}{result}")
    context.tracked.tags({PARITY: result.status})
    write_text(context.folder / "parity.json", json.dumps(result.as_dict(), indent=1) + "\n")
    if result.mismatches:
        raise UserError(
            f"measure.parity=true: loader={choice(config.loader)} does not do the same work as the reference: "
            f"{result.mismatch_summary}. To measure it anyway, type: measure.parity=false"
        )
    return str(result), seconds


def _resume(context: RunContext, step: ModelStep, length: RunLength, plan: EpochPlan) -> Progress:
    saved = _checkpoint(context)
    if length.exact:
        checkpoint.check_epoch(saved, plan, context.config)
    step.load_state(saved.state)
    done = saved.progress
    if not length.exact and done.epoch:  # an earlier epoch has counted the samples
        per_epoch = round(done.step / done.epoch)
        length.resume(epoch_steps=per_epoch, epochs=done.epoch, steps=done.step, updates=done.updates)
        optimizers.set_rate(step.optimizer, step.schedule)
    context.tracked.tags({"resumed_from": saved.run_id})
    context.terminal.say(f"resumed from {saved.path}: {saved.progress.epoch} epochs, {saved.progress.step} steps done")
    return saved.progress


def _checkpoint(context: RunContext) -> checkpoint.Checkpoint:
    """The checkpoint to continue from. Rank 0 reads it, since it may be on rank 0's node only.

    Raises:
        UserError: it cannot be continued.
    """
    group = context.group
    if group is None:
        return checkpoint.load(context.config)
    saved, refused = None, ""
    if group.ranks.is_first:
        try:
            saved = checkpoint.load(context.config, group.ranks.world_size)
        except UserError as error:
            refused = str(error)
    saved, refused = group.broadcast((saved, refused))
    if saved is None:
        raise UserError(refused)
    return saved


def _ranks_fact(context: RunContext, parts: Parts) -> dict[str, str]:
    """How many ranks there are and where; empty with one process."""
    group = context.group
    if group is None:
        return {}
    places = group.all_gather(group.ranks.node)
    nodes = ", ".join(f"{places.count(node)} on {node}" for node in dict.fromkeys(places))
    world_size, batch_size = group.ranks.world_size, context.config.batch_size
    text = f"{world_size} ({nodes}), global batch {world_size * batch_size}"
    if isinstance(parts.step, EmulatedStep):
        text += f"; meeting for an all-reduce takes the host {group.exchange_ms():.2f} ms"
    context.tracked.tags({"ranks": str(world_size), "nodes": ", ".join(dict.fromkeys(places))})
    return {"ranks": text}


def _report(context: RunContext, device: Device, spec: DataSpec, parts: Parts, mismatch: str | None) -> dict[str, str]:
    """Prints the run's first lines, records them as tags and returns them for the report page."""
    config, installed = context.config, versions()
    device_note = (
        " (device=auto: torch finds no CUDA device)"
        if config.device == AUTO and device.capabilities.uses_host_cores
        else ""
    )
    settings = in_force(parts.loader.settings) if parts.loader.settings is not None else {}
    loader_settings = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    batch = f"batch {config.batch_size} x {config.accumulate}, seed {config.effective_seed}"
    facts = {
        **_ranks_fact(context, parts),
        "device": f"{device.title}{device_note}, {torch.get_num_threads()} torch threads",
        "versions": ", ".join(
            f"{key} {installed[key]}" for key in ("torch", "nvidia-dali-cuda120") if key in installed
        ),
        "data": data_fact(spec, parts),
    }
    loader = {"loader": f"{choice(config.loader)}: {loader_settings}"}
    tags = {
        "device.type": device.kind,
        "device.name": device.name,
        "torch_threads.in_force": str(torch.get_num_threads()),
    }
    if isinstance(parts.step, ModelStep):
        effective = parts.step.precision.in_force
        precision_settings = ", ".join(f"{key} {value}" for key, value in effective.items())
        facts |= {
            "model": f"{choice(config.model)}: {models.num_parameters(parts.step.model):,} parameters{own_step_text(config)}",
            **loader,
            "precision": f"{config.precision.name}: {precision_settings}",
            "optimizer": f"{choice(config.optimizer)}, {batch}",
        }
        tags |= {f"precision.in_force.{key}": value for key, value in effective.items()}
    else:
        facts |= {**loader, "step": f"{device.kind}, computes nothing: no loss and no accuracy; {batch}"}
    for key, value in facts.items():
        context.terminal.say(f"{key:<10}{value}")
    for note in (*spec.notes, *parts.loader.notes, *([mismatch] if mismatch else [])):
        context.terminal.warn(note)
    context.tracked.tags(
        tags
        | {"data.samples": samples_text(spec, parts), "data.digest": spec.digest}
        | {f"loader.in_force.{key}": str(value) for key, value in settings.items()}
    )
    context.tracked.dataset(spec)
    return facts
