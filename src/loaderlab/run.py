"""One run from its configuration to its record: the only place where all rooms meet."""

from __future__ import annotations

import contextlib
import json
import os
import random
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import yaml

from loaderlab import checkpoint, data, environment, loaders, models, optimizers, precision, tracking
from loaderlab.config import AUTO, PROJECT, NativeLoader, ReplayLoader, TrainConfig, UserError, choice, flatten
from loaderlab.data.spec import DataSpec
from loaderlab.jobs import Job, RunResult
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.meter import resources, summary
from loaderlab.meter.phases import StepMeter, own_cost_ns
from loaderlab.processes import ignore_sigterm, process_age_s, sigterm_raises
from loaderlab.report import table
from loaderlab.terminal import Bar, Terminal
from loaderlab.training import Observers, Parts, Trained, train

AUTO_WARMUP_STEPS = 5
FEW_STEPS = 15  # under which the figures of a window say little


def run(config: TrainConfig, job: Job, terminal: Terminal) -> RunResult:
    """Trains as configured, on what there is, and records it.

    Raises:
        UserError: bad input, a full disk, a device out of memory: the run is FAILED and what it had is recorded.
        KeyboardInterrupt: Ctrl-C or SIGTERM: the run is KILLED, likewise.
    """
    store = tracking.Store(config.tracking, PROJECT)
    tags = {"arm": job.arm, "repeat": str(config.repeat)}
    if commit := environment.git_commit(PROJECT):
        tags["git.commit"] = commit
    with contextlib.ExitStack() as stack:
        if job.parent_id is None:  # a sweep says it once, for all its jobs
            stack.callback(lambda: terminal.say(f"recorded: {tracking.ui_command(store.uri)}"))
        stack.enter_context(sigterm_raises())
        tracked = stack.enter_context(store.start(job.name, job.parent_id, tags))
        session = Session(config, job, terminal, tracked)
        try:
            session.prepare()
            session.train()
        except BaseException as error:
            told = _told(config, error)
            ignore_sigterm()  # a second one must not spoil the record; a second Ctrl-C may
            session.record(told)
            if told is error:
                raise
            raise told from error
        finally:
            session.close()
        session.record(None)
    return RunResult(tracked.run_id, tracked.status, session.figures)


def _told(config: TrainConfig, error: BaseException) -> BaseException:
    """The error itself, or what a user can make of it."""
    if isinstance(error, torch.OutOfMemoryError):
        return _out_of_memory(config, error)
    if isinstance(error, RuntimeError) and "deterministic" in str(error) and config.deterministic:
        return UserError(f"deterministic=true: {str(error).splitlines()[0]} Type: deterministic=false")
    return error


def _out_of_memory(config: TrainConfig, error: torch.OutOfMemoryError) -> UserError:
    detail = str(error).split(". ")[:2]
    lower = max(1, config.batch_size // 2)
    same = f" (with accumulate={2 * config.accumulate} the weights are updated as before)"
    return UserError(
        f"CUDA out of memory with batch_size={config.batch_size}: {'. '.join(detail)}. Type batch_size={lower}{same}, "
        "or precision=bf16, a smaller model or data.transform.image_size"
    )


class Session:
    """The parts of one run and what it has measured so far."""

    def __init__(self, config: TrainConfig, job: Job, terminal: Terminal, tracked: tracking.TrackedRun) -> None:
        self.config, self.job, self.terminal, self.tracked = config, job, terminal, tracked
        self.trained = Trained()
        self.figures: dict[str, float] = {}
        self._facts: dict[str, str] = {}
        self._meter: StepMeter | None = None
        self._loaders: list[Loader] = []
        self._device = torch.device("cpu")
        self._warmup = 0
        self._logged = 0  # steps whose loss has gone to the tracker
        self._peak_mib: float | None = None
        self._saved_at = time.monotonic()

    # ---- before the loop -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything up to the first batch."""
        config = self.config
        self.tracked.params(flatten(config))
        self._device = environment.resolve_device(config.device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # events and streams are those of the current device
        self._seed()
        arithmetic = precision.Precision(config.precision, self._device)
        with self.terminal.progress("preparing the samples", None) as bar:
            spec = data.build(
                config.data, lambda done, total: bar.update(done, f"of {total:,} files") if bar.due(done) else None
            )
        train_loader, val_loader = self._build_loaders(spec)
        self._share_cores(train_loader)
        model = models.build(config.model, spec, self._device)
        optimizer, schedule = optimizers.build(config.optimizer, model, self._num_updates(train_loader))
        self._parts = Parts(model, optimizer, schedule, arithmetic, train_loader, val_loader, self._device)
        if config.resume is not None:
            self._resume()
        self._warmup = (
            max(AUTO_WARMUP_STEPS, train_loader.lookahead)
            if config.measure.warmup_steps == AUTO
            else int(config.measure.warmup_steps)
        )
        self._meter = StepMeter(self._device, cpu_clock=resources.cpu_seconds)
        self._tell(spec)

    def _seed(self) -> None:
        config = self.config
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
            torch.use_deterministic_algorithms(True)  # imports the compiler, seconds: not without need
        torch.backends.cudnn.benchmark = not config.deterministic
        random.seed(config.seed_in_force)
        np.random.seed(config.seed_in_force % 2**32)
        torch.manual_seed(config.seed_in_force)

    def _build_loaders(self, spec: DataSpec) -> tuple[Loader, Loader | None]:
        config = self.config
        num_train = spec.train.num_samples
        if config.drop_last and num_train is not None and num_train < config.batch_size:
            raise UserError(
                f"batch_size={config.batch_size}: there are {num_train} training samples, and drop_last=true leaves out a "
                f"short batch. Type: batch_size={num_train}, or drop_last=false"
            )
        plan = EpochPlan(num_train or 0, config.batch_size, True, config.drop_last, config.seed_in_force)
        train_loader = loaders.build(config.loader, spec.train, plan, self._device)
        self._loaders.append(train_loader)
        if not config.evaluate or spec.val is None:
            return train_loader, None
        held = EpochPlan(spec.val.num_samples or 0, config.batch_size, False, False)
        # a ceiling is of the training step: its model is still judged on all validation samples
        backend = NativeLoader(decoder="pillow") if isinstance(config.loader, ReplayLoader) else config.loader
        val_loader = loaders.build(backend, spec.val, held, self._device)
        self._loaders.append(val_loader)
        return train_loader, val_loader

    def _share_cores(self, loader: Loader) -> None:
        """On a CPU the step and the loader compute on the same cores: more threads than cores make both slower."""
        threads = self.config.torch_threads
        if threads == AUTO and self._device.type == "cpu":
            threads = max(1, environment.available_cores() - loader.busy_cores)
        if threads != AUTO:
            torch.set_num_threads(threads)

    def _num_updates(self, loader: Loader) -> int | None:
        """Updates of the whole run; None where an iterable dataset does not tell."""
        per_epoch, config = loader.num_steps, self.config
        if config.steps is not None:
            if not per_epoch:
                return -(-config.steps // config.accumulate)
            whole, rest = divmod(config.steps, per_epoch)
            return whole * -(-per_epoch // config.accumulate) + -(-rest // config.accumulate)
        assert config.num_epochs is not None
        return None if per_epoch is None else config.num_epochs * -(-per_epoch // config.accumulate)

    def _resume(self) -> None:
        found = checkpoint.load(self.config)
        self._parts.load_state(found.state)
        self.trained = found.trained
        self.tracked.tags({"resumed_from": found.run_id})
        self.terminal.say(f"resumed from {found.path}: {found.trained.epoch} epochs, {found.trained.step} steps done")

    def _tell(self, spec: DataSpec) -> None:
        """The first lines on the terminal, and the same facts as tags."""
        config, parts, versions = self.config, self._parts, environment.versions()
        name = environment.device_name(self._device)
        chosen = (
            " (device=auto: torch finds no CUDA device)" if config.device == AUTO and self._device.type == "cpu" else ""
        )
        samples = f"{spec.train.num_samples or 'unknown'} training, {spec.val.num_samples if spec.val else 0} validation samples"
        settings = ", ".join(f"{key} {value}" for key, value in parts.loader.settings.items() if value is not None)
        in_force = ", ".join(f"{key} {value}" for key, value in parts.precision.in_force.items())
        self._facts = {
            "device": f"{self._device} {name}{chosen}, {torch.get_num_threads()} torch threads",
            "versions": ", ".join(
                f"{key} {versions[key]}" for key in ("torch", "nvidia-dali-cuda120") if key in versions
            ),
            "data": f"{spec.name}: {samples}, {len(spec.classes)} classes, {'x'.join(map(str, spec.sample_shape))}",
            "model": f"{choice(config.model)}: {models.num_parameters(parts.model):,} parameters",
            "loader": f"{choice(config.loader)}: {settings}",
            "precision": f"{config.precision.name}: {in_force}",
            "optimizer": f"{choice(config.optimizer)}, batch {config.batch_size} x {config.accumulate}, seed {config.seed_in_force}",
        }
        for key, value in self._facts.items():
            self.terminal.say(f"{key:<10}{value}")
        for note in spec.notes:
            self.terminal.warn(note)
        self.tracked.tags(
            {"device.type": self._device.type, "device.name": name}
            | {f"loader.in_force.{key}": str(value) for key, value in parts.loader.settings.items()}
            | {f"precision.in_force.{key}": value for key, value in parts.precision.in_force.items()}
        )
        self.tracked.dataset(spec)

    # ---- the loop ------------------------------------------------------------------------------------------

    def train(self) -> None:
        """The loop, with its progress on the terminal."""
        config, loader = self.config, self._parts.loader
        assert self._meter is not None
        self.figures["time/startup_s"] = process_age_s()
        total = config.steps
        if total is None and loader.num_steps is not None and config.num_epochs is not None:
            total = loader.num_steps * config.num_epochs
        with self.terminal.progress("training", total) as bar:
            self._bar: Bar = bar
            self._shown = 0
            observers = Observers(self._on_step, self._on_epoch)
            train(
                self._parts, self._meter, self.trained, observers,
                epochs=config.num_epochs, steps=config.steps, accumulate=config.accumulate,
            )  # fmt: skip

    def _on_step(self, trained: Trained, meter: StepMeter) -> None:
        if len(meter.steps) == 2:  # in the warm-up, with workers that end before the epoch does
            self._read_memory()
        if not self._bar.due(trained.step):
            return
        recent = meter.steps[self._shown :]  # since the last drawing; the steps' own time, evaluation is not in it
        self._shown = len(meter.steps)
        elapsed, waited = sum(step.host_ns for step in recent) / 1e9, sum(step.host[0] for step in recent) / 1e9
        rate = sum(step.num_samples for step in recent) / elapsed
        self._bar.update(
            trained.step,
            f"epoch {trained.epoch + 1}, loss {meter.last_loss:.4f}, {rate:,.0f} samples/s, wait {100 * waited / elapsed:.0f} %",
        )

    def _on_epoch(self, trained: Trained, meter: StepMeter) -> None:
        """Outside every window: what was kept is written, memory read, a checkpoint made if one is due."""
        if trained.val_loss:
            self.tracked.metric("val/loss", trained.val_loss[-1], trained.step)
            self.tracked.metric("val/accuracy", trained.val_accuracy[-1], trained.step)
        self._log_losses()
        self.tracked.flush()
        self._read_memory()
        every = self.config.checkpoint.every_minutes
        if every is not None and time.monotonic() - self._saved_at >= 60 * every:
            checkpoint.save(self._checkpoint_path, self._parts, trained, self.config, self.tracked.run_id)
            self._saved_at = time.monotonic()

    def _read_memory(self) -> None:
        memory = resources.proportional_memory_mib()
        if memory is not None:
            self._peak_mib = max(memory, self._peak_mib or 0.0)

    def _log_losses(self) -> None:
        """Points of the loss, each the mean of ``tracking.log_every`` steps, at the last of them."""
        assert self._meter is not None
        every, settled = self.config.tracking.log_every, self._meter.num_settled
        before = self.trained.step - len(self._meter.steps)  # steps of the run that was resumed
        while self._logged < settled:
            block = self._meter.steps[self._logged : min(self._logged + every, settled)]
            self._logged += len(block)
            step = before + self._logged
            self.tracked.metric("train/loss", float(np.mean([entry.loss for entry in block])), step)
            self.tracked.metric("train/learning_rate", self.trained.learning_rates[self._logged - 1], step)

    @property
    def _checkpoint_path(self) -> Path:
        return Path(self.config.checkpoint.dir) / self.tracked.run_id / checkpoint.NAME

    # ---- after the loop ------------------------------------------------------------------------------------

    def record(self, error: BaseException | None) -> None:
        """Figures and artifacts of what was done, however it ended."""
        if self._meter is not None and self._meter.steps:
            self._log_losses()
            self._summarize(self._meter)
            for name, value in self.figures.items():
                self.tracked.metric(name, value, self.trained.step)
        if error is not None:
            self.tracked.tags({"error": _one_line(error)})
        elif not self.config.checkpoint.keep:
            self._checkpoint_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._checkpoint_path.parent.rmdir()
        if self.job.parent_id is None and (rows := table.figure_rows(self.figures)):
            self.terminal.table(self.job.name, ("", "measured"), rows)
        with tempfile.TemporaryDirectory() as folder:
            self._write_artifacts(Path(folder), error)
            self.tracked.artifacts(Path(folder))
        page = table.markdown(self.job.name, self._facts, self.figures)
        self.tracked.tags({"mlflow.note.content": page})

    def _summarize(self, meter: StepMeter) -> None:
        window = summary.measured(meter.steps[: meter.num_settled], self._warmup)
        self.figures |= summary.summarize(window)
        if len(window) < FEW_STEPS:
            self.terminal.warn(
                f"{len(window)} steps were measured after {self._warmup} of warm-up: too few to tell. Type for example: "
                f"steps={self._warmup + 10 * FEW_STEPS}"
            )
        self.figures["time/first_batch_s"] = meter.steps[0].host[0] / 1e9
        if self.trained.train_s:  # else the first epoch was cut short: no whole time to tell
            self.figures["time/train_s"] = self.trained.train_s
        gap = summary.between_epochs_ms(meter.steps, meter.epoch_ends_ns)
        if gap is not None:
            self.figures["time/epoch_gap_ms"] = gap
        if meter.epochs_s:
            self.figures["cpu/utilization_pct"] = 100 * meter.cpu_s / (meter.epochs_s * environment.available_cores())
        if self._peak_mib is not None:
            self.figures["memory/host_peak_mib"] = self._peak_mib
        if self._device.type == "cuda":
            self.figures["memory/device_peak_mib"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        if "time/step_ms" in self.figures:
            self.figures["meter/overhead_pct"] = own_cost_ns(self._device) / 1e4 / self.figures["time/step_ms"]
        losses = [step.loss for step in meter.steps[: meter.num_settled]][-self.config.tracking.log_every :]
        if losses:
            self.figures["train/loss"] = float(np.mean(losses))
            if not np.isfinite(self.figures["train/loss"]):
                self.terminal.warn(
                    f"the training loss is {self.figures['train/loss']}: lower optimizer.lr, or precision=fp32"
                )
        if self.trained.val_loss:
            self.figures["val/loss"] = self.trained.val_loss[-1]
            self.figures["val/accuracy"] = self.trained.val_accuracy[-1]

    def _write_artifacts(self, folder: Path, error: BaseException | None) -> None:
        settings: dict[str, object] = {}
        for name, value in flatten(self.config):
            settings[name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        (folder / "overrides.yaml").write_text(yaml.safe_dump(list(self.job.overrides)))
        (folder / "environment.json").write_text(json.dumps(environment.describe(self._device), indent=1) + "\n")
        if error is not None:
            (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
        if self._meter is not None and self._meter.steps:
            from loaderlab.report import figures  # half a second: not at the start

            steps = self._meter.steps[: self._meter.num_settled]
            (folder / "steps.csv").write_text(summary.to_csv(steps, self._warmup))
            figures.breakdown(
                folder / "breakdown.png", self.job.name, self.figures,
                [step.host[0] / 1e6 for step in steps], [step.host_ns / 1e6 for step in steps], [step.loss for step in steps],
            )  # fmt: skip
            (folder / "report.md").write_text(table.markdown(self.job.name, self._facts, self.figures))
        (folder / "log.txt").write_text("\n".join(self.terminal.said) + "\n")

    def close(self) -> None:
        """Ends the loaders' workers and threads."""
        for loader in self._loaders:
            loader.close()
        self._loaders = []


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by SIGTERM" if hasattr(error, "exit_code") else "interrupted by Ctrl-C"
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0] if text else type(error).__name__
