"""The parts of one run, from the first to the last of its steps, and the probes after them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from loaderlab import data, loaders, metrics
from loaderlab.config import AUTO, NativeLoader, ReplayLoader, TrainConfig, UserError, choice, flatten
from loaderlab.data.spec import DataSpec
from loaderlab.device import resolve
from loaderlab.diagnosis import figures
from loaderlab.diagnosis.evidence import Verdict
from loaderlab.loaders.contract import EpochPlan, Loader
from loaderlab.meter import resources, summary
from loaderlab.meter.phases import Step, StepMeter
from loaderlab.meter.profile import BEYOND, StepProfiler
from loaderlab.meter.rates import ProbeResults
from loaderlab.meter.sampler import DeviceSample, DeviceSampler
from loaderlab.parity.check import check_run
from loaderlab.parity.status import PARITY
from loaderlab.probes.inputs import ProbeInputs
from loaderlab.probes.sequence import Probes
from loaderlab.probes.state import random_states_kept
from loaderlab.runs.job import Job
from loaderlab.system import machine, versions
from loaderlab.system.processes import process_age_s
from loaderlab.system.terminal import Bar, Terminal
from loaderlab.tracking.store import TrackedRun
from loaderlab.training import checkpoint, models, optimizers, precision
from loaderlab.training.loop import Observers, Parts, Trained, train

AUTO_WARMUP_STEPS = 5
BROKEN_TOLD = 10  # samples, on the terminal


class Session:
    """The parts of one run and what it has measured so far."""

    def __init__(self, config: TrainConfig, job: Job, terminal: Terminal, tracked: TrackedRun) -> None:
        self.config, self.job, self.terminal, self.tracked = config, job, terminal, tracked
        self.trained = Trained()
        self.figures: dict[str, float] = {}
        self.verdict: Verdict | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="loaderlab-"))  # of what becomes the run's artifacts
        self.probed = ProbeResults()
        self._profiler: StepProfiler | None = None
        self.device_samples: list[DeviceSample] = []
        self.facts: dict[str, str] = {}
        self.meter: StepMeter | None = None
        self._loaders: list[Loader] = []
        self.device = torch.device("cpu")
        self.warmup = 0
        self._logged = 0  # steps whose loss has gone to the tracker
        self.host_peak_mib: float | None = None
        self.device_peak_mib = 0.0
        self._saved_at = time.monotonic()
        self.broken: dict[str, None] = {}  # why samples were skipped, each once, in the order of their finding
        self._gate_s, self._parity = 0.0, ""

    # ---- before the loop -----------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Everything up to the first batch."""
        config = self.config
        self.tracked.params(flatten(config))
        self.device = resolve.resolve_device(config.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # events and streams are those of the current device
        self._seed()
        arithmetic = precision.Precision(config.precision, self.device)
        with self.terminal.progress("preparing the samples", None) as bar:

            def on_progress(done: int, total: int | None) -> None:
                if bar.due(done):
                    bar.update(done, "files" if total is None else f"of {total:,} files")

            spec = data.build(config.data, on_progress)
        if config.measure.parity:
            self._gate(spec)
        train_loader, val_loader = self._build_loaders(spec)
        self._share_cores(train_loader)
        model = models.build(config.model, spec, self.device)
        optimizer, schedule = optimizers.build(config.optimizer, model, self._num_updates(train_loader))
        self.parts = Parts(model, optimizer, schedule, arithmetic, train_loader, val_loader, self.device)
        if config.resume is not None:
            self._resume()
        self.warmup = (
            max(AUTO_WARMUP_STEPS, train_loader.lookahead)
            if config.measure.warmup_steps == AUTO
            else int(config.measure.warmup_steps)
        )
        self.spec = spec
        self.meter = StepMeter(self.device, counters=figures.counters, sync=config.measure.sync)
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

    def _gate(self, spec: DataSpec) -> None:
        """Goes on only if the loader does the reference's work, or cannot be checked."""
        began = time.monotonic()
        with (
            random_states_kept(self.device),
            self.terminal.progress("holding the loader against the reference", None),
        ):
            found = check_run(self.config, spec, self.device)
        self._gate_s, self._parity = time.monotonic() - began, str(found)
        self.terminal.say(f"{'parity':<10}{found}")
        self.tracked.tags({PARITY: found.status})
        (self.folder / "parity.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n")
        if found.mismatches:
            raise UserError(
                f"measure.parity=true: loader={choice(self.config.loader)} does not do the reference's work: {found.mismatch_summary}. "
                "To measure it all the same type: measure.parity=false"
            )

    def _build_loaders(self, spec: DataSpec) -> tuple[Loader, Loader | None]:
        config = self.config
        num_train = spec.train.num_samples
        if config.drop_last and num_train is not None and num_train < config.batch_size:
            raise UserError(
                f"batch_size={config.batch_size}: there are {num_train} training samples, and drop_last=true leaves out a "
                f"short batch. Type: batch_size={num_train}, or drop_last=false"
            )
        self._plan = EpochPlan(
            num_train or 0, config.batch_size, True, config.drop_last, config.seed_in_force, blocks=spec.train.blocks
        )
        train_loader = self._build_loader(spec)
        if not config.evaluate or spec.val is None:
            return train_loader, None
        held = EpochPlan(spec.val.num_samples or 0, config.batch_size, False, False)
        # a ceiling is of the training step: its model is still judged on all validation samples
        backend = NativeLoader(decoder="pillow") if isinstance(config.loader, ReplayLoader) else config.loader
        val_loader = loaders.build(backend, spec.val, held, self.device)
        self._loaders.append(val_loader)
        return train_loader, val_loader

    def _build_loader(self, spec: DataSpec) -> Loader:
        """A loader of the training samples."""
        loader = loaders.build(self.config.loader, spec.train, self._plan, self.device)
        self._loaders.append(loader)
        return loader

    def _share_cores(self, loader: Loader) -> None:
        """On a CPU the step and the loader compute on the same cores: more threads than cores make both slower."""
        threads = self.config.torch_threads
        if threads == AUTO and self.device.type == "cpu":
            threads = max(1, machine.available_cores() - loader.busy_cores)
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
        self.parts.load_state(found.state)
        self.trained = found.trained
        self.tracked.tags({"resumed_from": found.run_id})
        self.terminal.say(f"resumed from {found.path}: {found.trained.epoch} epochs, {found.trained.step} steps done")

    def _tell(self, spec: DataSpec) -> None:
        """The first lines on the terminal, and the same facts as tags."""
        config, parts, installed = self.config, self.parts, versions.versions()
        name = resolve.device_name(self.device)
        chosen = (
            " (device=auto: torch finds no CUDA device)" if config.device == AUTO and self.device.type == "cpu" else ""
        )
        samples = f"{spec.train.num_samples or 'unknown'} training, {spec.val.num_samples if spec.val else 0} validation samples"
        settings = ", ".join(f"{key} {value}" for key, value in parts.loader.settings.items() if value is not None)
        in_force = ", ".join(f"{key} {value}" for key, value in parts.precision.in_force.items())
        self.facts = {
            "device": f"{self.device} {name}{chosen}, {torch.get_num_threads()} torch threads",
            "versions": ", ".join(
                f"{key} {installed[key]}" for key in ("torch", "nvidia-dali-cuda120") if key in installed
            ),
            "data": f"{spec.name}: {samples}, {len(spec.classes)} classes, {'x'.join(map(str, spec.sample_shape))}",
            "model": f"{choice(config.model)}: {models.num_parameters(parts.model):,} parameters",
            "loader": f"{choice(config.loader)}: {settings}",
            "precision": f"{config.precision.name}: {in_force}",
            "optimizer": f"{choice(config.optimizer)}, batch {config.batch_size} x {config.accumulate}, seed {config.seed_in_force}",
        }
        for key, value in self.facts.items():
            self.terminal.say(f"{key:<10}{value}")
        if self._parity:  # said already
            self.facts["parity"] = self._parity
        for note in spec.notes:
            self.terminal.warn(note)
        self.tracked.tags(
            {
                "device.type": self.device.type,
                "device.name": name,
                "torch_threads.in_force": str(torch.get_num_threads()),
            }
            | {"data.samples": samples, "data.digest": spec.digest}
            | {f"loader.in_force.{key}": str(value) for key, value in parts.loader.settings.items()}
            | {f"precision.in_force.{key}": value for key, value in parts.precision.in_force.items()}
        )
        self.tracked.dataset(spec)

    # ---- the loop ------------------------------------------------------------------------------------------

    def train(self) -> None:
        """The loop, with its progress on the terminal."""
        config, loader = self.config, self.parts.loader
        assert self.meter is not None
        self.figures[metrics.STARTUP_S] = process_age_s() - self._gate_s
        total = config.steps
        if total is None and loader.num_steps is not None and config.num_epochs is not None:
            total = loader.num_steps * config.num_epochs
        with self._device_sampled(), self.terminal.progress("training", total) as bar:
            self._bar: Bar = bar
            self._shown = self._shown_settled = 0
            if config.measure.profile:
                self._profiler = self._plan_profile(loader)
            observers = Observers(self._on_step, self._on_epoch)
            try:
                train(
                    self.parts,
                    self.meter,
                    self.trained,
                    observers,
                    epochs=config.num_epochs,
                    steps=config.steps,
                    accumulate=config.accumulate,
                )
            except BaseException:
                with contextlib.suppress(RuntimeError):  # a device that has failed gives no times
                    self.meter.settle()
                raise

    @contextlib.contextmanager
    def _device_sampled(self) -> Iterator[None]:
        """NVML beside the loop, where there is a GPU to look at."""
        if self.device.type != "cuda" or not self.config.measure.device_samples:
            yield
            return
        with DeviceSampler(str(torch.cuda.get_device_properties(self.device).uuid)) as sampler:
            try:
                yield
            finally:
                self.device_samples = sampler.stop()
        if sampler.problem:
            self.terminal.warn(f"no GPU utilisation, power and clocks: {sampler.problem}")

    def _plan_profile(self, loader: Loader) -> StepProfiler | None:
        """Within one epoch: an evaluation between two steps is none of theirs."""
        measure, per_epoch = self.config.measure, loader.num_steps
        room = measure.profile_steps if per_epoch is None else min(measure.profile_steps, per_epoch - BEYOND - 1)
        if room < 1:
            self.terminal.warn(
                f"measure.profile=true: an epoch has {per_epoch} steps, and a trace takes {BEYOND + 2}. Type for example: "
                f"batch_size={max(1, self.config.batch_size // 4)}"
            )
            return None
        return StepProfiler(self.folder, room, measure.profile_mib, self.device, self.warmup)

    def _has_room(self, meter: StepMeter) -> bool:
        """Whether a profile can begin here: past the warm-up, and with its steps to come in this epoch."""
        assert self._profiler is not None
        per_epoch = self.parts.loader.num_steps
        past = meter.num_steps >= self.warmup or (per_epoch is not None and per_epoch - BEYOND - 1 < self.warmup)
        return past and (per_epoch is None or meter.position + self._profiler.num_steps <= per_epoch)

    def _on_step(self, trained: Trained, meter: StepMeter) -> None:
        if self._profiler is not None and (self._profiler.running or self._has_room(meter)):
            self._profiler.step(meter)
        if meter.num_steps == 1 and self.device.type == "cuda":  # cuDNN's trials and the model's own are over
            self._read_memory()
            torch.cuda.reset_peak_memory_stats(self.device)
        if meter.num_steps == 2:  # in the warm-up, with workers that end before the epoch does
            self._read_memory()
        if not self._bar.due(trained.step):
            return
        # since the last drawing; the steps' own time, evaluation is not in it. On CUDA device times come some steps late
        recent, settled = meter.steps[self._shown :], meter.steps[self._shown_settled : meter.num_settled]
        self._shown, self._shown_settled = len(meter.steps), meter.num_settled
        note = f"epoch {trained.epoch + 1}, loss {meter.last_loss:.4f}"
        if elapsed := sum(step.host_ns for step in recent) / 1e9:
            waited = sum(step.host[0] for step in recent) / 1e9
            rate = sum(step.num_samples for step in recent) / elapsed
            note += f", {rate:,.0f} samples/s, wait {100 * waited / elapsed:.0f} %"
        if length := sum(step.length_ms for step in settled):
            note += f", starved {100 * sum(step.starved_ms for step in settled) / length:.0f} %"
        self._bar.update(trained.step, note)

    def _on_epoch(self, trained: Trained, meter: StepMeter) -> None:
        """Outside every window: what was kept is written, memory read, a checkpoint made if one is due."""
        if trained.val_loss:
            self.tracked.metric(metrics.VAL_LOSS, trained.val_loss[-1], trained.step)
            self.tracked.metric(metrics.VAL_ACCURACY, trained.val_accuracy[-1], trained.step)
        self.tell_broken()
        self.log_losses()
        self.tracked.flush()
        self._read_memory()
        every = self.config.checkpoint.every_minutes
        if every is not None and time.monotonic() - self._saved_at >= 60 * every:
            checkpoint.save(self.checkpoint_path, self.parts, trained, self.config, self.tracked.run_id)
            self._saved_at = time.monotonic()

    def tell_broken(self) -> None:
        """The samples that were skipped and not yet told of."""
        for loader in self._loaders:
            for reason in loader.broken.values():
                if reason in self.broken:
                    continue
                self.broken[reason] = None
                if len(self.broken) <= BROKEN_TOLD:
                    self.terminal.warn(f"skipped: {reason}")
                elif len(self.broken) == BROKEN_TOLD + 1:
                    self.terminal.warn("more samples were skipped: broken.txt with the run has all of them")

    def _read_memory(self) -> None:
        memory = resources.proportional_memory_mib()
        if memory is not None:
            self.host_peak_mib = max(memory, self.host_peak_mib or 0.0)
        if self.device.type == "cuda" and (self.device_peak_mib is None or self.trained.step > 1):
            self.device_peak_mib = torch.cuda.max_memory_allocated(self.device) / 2**20

    def log_losses(self) -> None:
        """Points of the loss, each the mean of ``tracking.log_every`` steps, at the last of them."""
        assert self.meter is not None
        every, settled = self.config.tracking.log_every, self.meter.num_settled
        before = self.trained.step - len(self.meter.steps)  # steps of the run that was resumed
        while self._logged < settled:
            block = self.meter.steps[self._logged : min(self._logged + every, settled)]
            self._logged += len(block)
            step = before + self._logged
            self.tracked.metric(metrics.TRAIN_LOSS, float(np.mean([entry.loss for entry in block])), step)
            self.tracked.metric(metrics.LEARNING_RATE, self.trained.learning_rates[self._logged - 1], step)

    @property
    def checkpoint_path(self) -> Path:
        return Path(self.config.checkpoint.dir) / self.tracked.run_id / checkpoint.NAME

    # ---- after the loop ------------------------------------------------------------------------------------

    @property
    def window(self) -> list[Step]:
        """The measured steps."""
        assert self.meter is not None
        return summary.measured(self.meter.steps[: self.meter.num_settled], self.warmup, self.parallel)

    @property
    def parallel(self) -> int:
        """Batches that the loader has in the making at the same time."""
        return self.parts.loader.parallel

    def probe(self) -> None:
        """What the run might have been; see `loaderlab.probes`."""
        if self._profiler is not None:
            self._profiler.close()
            if not self._profiler.path.exists():
                self.terminal.warn(
                    f"measure.profile=true: no epoch had {self._profiler.num_steps} steps left for a trace"
                )
        rate = summary.summarize(self.window).get(metrics.RATE)
        if rate is None:
            return  # nothing was measured: nothing to hold a probe against
        measure, config = self.config.measure, self.config
        with self.terminal.progress("probes", 4 if measure.cold else 3) as bar:
            probes = Probes()
            inputs = ProbeInputs(
                self.parts,
                measure,
                lambda: self._build_loader(self.spec),
                self.spec.train,
                self._plan,
                self.trained.epoch,
                config.accumulate,
                rate,
            )
            try:
                probes.run(inputs, lambda done, name: bar.update(done, name))
            finally:
                self.probed = probes.results
        for note in self.probed.notes:
            self.terminal.warn(note)

    def close(self) -> None:
        """Ends the loaders' workers and threads."""
        if self._profiler is not None:
            self._profiler.close()
        for loader in self._loaders:
            loader.close()

    def discard(self) -> None:
        """Removes what has been recorded, or could not be."""
        shutil.rmtree(self.folder, ignore_errors=True)
