"""What a run leaves as files: its configuration, its steps, a picture, a page, and what was said."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from loaderlab import metrics
from loaderlab.config import UserError, choice, flatten
from loaderlab.data.spec import EncodedImages, UserItems
from loaderlab.device import environment
from loaderlab.diagnosis import figures
from loaderlab.diagnosis.evidence import LEAST_STEPS, Setup, Verdict
from loaderlab.diagnosis.verdict import judge
from loaderlab.meter import summary
from loaderlab.meter.phases import Step, StepMeter, own_cost_ns
from loaderlab.report import run_page
from loaderlab.runs.session import Session
from loaderlab.system import machine
from loaderlab.system.processes import OutOfTime
from loaderlab.tracking.records import NOT_FINITE


def record(session: Session, error: BaseException | None) -> None:
    """Figures and artifacts of what was done, however it ended."""
    session.tell_broken()
    if session.meter is not None and session.meter.steps:
        if session.spec.train.on_error.skip:
            session.figures[metrics.SKIPPED_SAMPLES] = len(session.broken)
        session.log_losses()
        _summarize(session, session.meter)
        _judge(session, session.meter, failed=error is not None)
        for name, value in session.figures.items():
            session.tracked.metric(name, value, session.trained.step)
    for name, value in session.job.machine.items():  # last: the UI offers the first metric first
        session.tracked.metric(name, value, 0)
    if error is not None:
        session.tracked.tags({"error": one_line(error)})
    elif not session.config.checkpoint.keep:
        session.checkpoint_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            session.checkpoint_path.parent.rmdir()
    if session.job.parent_id is None and (rows := run_page.figure_rows(session.figures)):
        session.terminal.table(session.job.name, ("", "measured"), rows)
    if session.verdict is not None and (error is None or len(session.window) >= LEAST_STEPS):
        session.terminal.say(str(session.verdict))
    page = run_page.markdown(session.job.name, session.facts, session.figures, session.verdict)
    _write(session, page, error)
    session.tracked.artifacts(session.folder)
    session.tracked.tags({"mlflow.note.content": page})


def _summarize(session: Session, meter: StepMeter) -> None:
    session.figures |= summary.summarize(session.window)
    session.figures[metrics.FIRST_BATCH_S] = meter.steps[0].host[0] / 1e9
    if session.trained.train_s:  # else the first epoch was cut short: no whole time to tell
        session.figures[metrics.TRAIN_S] = session.trained.train_s
    gap = summary.between_epochs_ms(meter.steps, meter.epoch_ends_ns)
    if gap is not None:
        session.figures[metrics.EPOCH_GAP_MS] = gap
    session.figures |= figures.usage(meter, machine.available_cores())
    session.figures |= figures.device_usage(meter, session.window, session.device_samples)
    if session.host_peak_mib is not None:
        session.figures[metrics.HOST_PEAK_MIB] = session.host_peak_mib
    if session.device.type == "cuda":
        session.figures[metrics.DEVICE_PEAK_MIB] = session.device_peak_mib
    if metrics.STEP_MS in session.figures:
        cost = own_cost_ns(session.device, sync=session.config.measure.sync)
        session.figures[metrics.OVERHEAD_PCT] = cost / 1e4 / session.figures[metrics.STEP_MS]
    losses = [step.loss for step in meter.steps[: meter.num_settled]][-session.config.tracking.log_every :]
    if losses:
        session.figures[metrics.TRAIN_LOSS] = float(np.mean(losses))
        if not np.isfinite(session.figures[metrics.TRAIN_LOSS]):
            session.terminal.warn(
                f"the training loss is {session.figures[metrics.TRAIN_LOSS]}: lower optimizer.lr, or precision=fp32"
            )
    if session.trained.val_loss:
        session.figures[metrics.VAL_LOSS] = session.trained.val_loss[-1]
        session.figures[metrics.VAL_ACCURACY] = session.trained.val_accuracy[-1]
    if lost := [name for name, value in session.figures.items() if not np.isfinite(value)]:
        session.tracked.tags({NOT_FINITE: ", ".join(lost)})


def _judge(session: Session, meter: StepMeter, *, failed: bool) -> None:
    """The verdict, and the figures and tags that go with it."""
    window, setup = session.window, _setup(session)
    if len(window) < LEAST_STEPS and not failed:
        per_epoch = session.parts.loader.num_steps
        if per_epoch is not None and per_epoch <= session.parallel:
            session.terminal.warn(
                f"an epoch has {per_epoch} steps, of which the first {session.parallel} are never measured. Type for example: "
                f"batch_size={max(1, session.config.batch_size // (4 * session.parallel))}"
            )
        else:
            session.terminal.warn(
                f"{len(window)} steps were measured after {session.warmup} of warm-up: too few to tell. Type for example: "
                f"steps={session.warmup + 10 * LEAST_STEPS}"
            )
    found = figures.evidence(meter, window, session.probed, setup.parallel, session.figures.get(metrics.CPU_PCT))
    session.figures |= figures.figures(found, session.probed, setup, session.figures.get(metrics.RATE))
    session.verdict = judge(found, setup)
    session.tracked.tags(verdict_tags(session.verdict))


def _setup(session: Session) -> Setup:
    config, parts, split = session.config, session.parts, session.spec.train
    normalization, source = split.normalization, split.source
    return Setup(
        loader=choice(config.loader),
        settings=parts.loader.settings | {"batched": getattr(config.loader, "batched", None)},
        parallel=parts.loader.parallel,
        ahead=parts.loader.lookahead > 0,
        cores=machine.available_cores(),
        threads=torch.get_num_threads(),
        device_type=session.device.type,
        batch_size=config.batch_size,
        precision=config.precision.name,
        takes_bf16=session.device.type == "cuda" and torch.cuda.get_device_capability(session.device) >= (8, 0),
        in_memory=split.in_memory,
        at_hand=split.at_hand,
        image_files=isinstance(split.source, EncodedImages),
        normalized_by_loader=normalization is not None and not normalization.on_device,
        compiled=config.model.compile,
        most_workers=1 if isinstance(source, UserItems) and source.iterable and not source.sharded else None,
    )


def _write(session: Session, page: str, error: BaseException | None) -> None:
    """Writes the files that become the run's artifacts."""
    folder, settings = session.folder, dict[str, object]()
    for name, value in flatten(session.config):
        settings[name] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(list(session.job.overrides)))
    (folder / "environment.json").write_text(json.dumps(environment.describe(session.device), indent=1) + "\n")
    if session.broken:
        (folder / "broken.txt").write_text("\n".join(session.broken) + "\n")
    if error is not None:
        (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    if session.meter is not None and session.meter.steps:
        steps = session.meter.steps[: session.meter.num_settled]
        title = session.job.name + (f": {session.verdict.grade}" if session.verdict is not None else "")
        write_steps(folder, title, steps, session.warmup, session.parallel, session.figures)
        (folder / "report.md").write_text(page)
    (folder / "log.txt").write_text("\n".join(session.terminal.said) + "\n")


def write_steps(
    folder: Path,
    title: str,
    steps: Sequence[Step],
    warmup_steps: int,
    ramp: int,
    figures: Mapping[str, float],
    *,
    coarse: bool = False,
) -> None:
    """``steps.csv`` and ``breakdown.png``."""
    from loaderlab.report.step_picture import breakdown

    (folder / "steps.csv").write_text(summary.to_csv(steps, warmup_steps, ramp, coarse=coarse))
    breakdown(folder / "breakdown.png", title, figures, steps)


def verdict_tags(verdict: Verdict) -> dict[str, str]:
    """A verdict as tags."""
    tags = {"verdict": verdict.grade, "verdict.because": verdict.because}
    if verdict.bottleneck:
        tags["bottleneck"] = verdict.bottleneck
    if verdict.advice:
        tags["advice"] = "; ".join(map(str, verdict.advice))
    return tags


def one_line(error: BaseException) -> str:
    """An error as a tag."""
    if isinstance(error, KeyboardInterrupt):
        if isinstance(error, OutOfTime):
            return str(error)
        return "interrupted by SIGTERM" if hasattr(error, "exit_code") else "interrupted by Ctrl-C"
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__
