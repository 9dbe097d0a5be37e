"""Every metric: its name, unit, label, format, and whether a higher value is better. The only place that defines them.

A run logs no other name (`loaderlab.tracking` asserts it). The terminal, the page, the charts, MLflow's views, ``fail_if``
and ``docs/metrics.md`` read this table. Code uses the constants, so a misspelt name is an error at import.

``python -m loaderlab.metrics`` prints ``docs/metrics.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", ""
ROW, PART = "row", "part"
WORST_RANK = "worst_rank/"  # prefix of the metrics that have the worst rank's value
TASK, VALIDATION = "task/", "val/"  # prefixes of the metrics that a user's own step and evaluation return
TABLE: dict[str, Metric] = {}


@dataclass(frozen=True)
class Metric:
    """The definition of a metric.

    Attributes:
        name: in MLflow, with the unit last.
        unit: for readers; empty for a plain number.
        label: in the table of one run, and in the docs.
        format: format specification of the number, without its unit.
        better: HIGHER, LOWER or NEITHER.
        per_rank: each rank measures its own value; otherwise there is one value for the whole run.
        column: the short heading in a table of several runs; empty if it is not shown there.
        of: the whole that a percentage refers to.
        row: ROW or PART (of the row above, indented) in the table of one run; empty if it is only logged.
    """

    name: str
    unit: str
    label: str
    format: str
    better: str
    per_rank: bool
    column: str = ""
    of: str = ""
    row: str = ""

    def number(self, value: float) -> str:
        """The number without its unit: ``1,234``."""
        return format(value, self.format)

    def cell(self, value: float) -> str:
        """The text of a table cell: ``12.3 %``, ``1,234``. The column's heading names any other unit than % and x."""
        return f"{self.number(value)}{_attached(self.unit)}" if self.unit in ("%", "x") else self.number(value)

    def quantity(self, value: float) -> str:
        """The number with its unit: ``1,234 samples/s``."""
        return f"{self.number(value)}{_attached(self.unit)}"

    def text(self, value: float) -> str:
        """The number with its unit and the whole that it refers to: ``12.3 % of the window``."""
        return self.quantity(value) + (f" of {self.of}" if self.of else "")

    @property
    def short_label(self) -> str:
        """The label up to its comma: ``validation loss``, ``host memory``."""
        return self.label.partition(",")[0]

    @property
    def axis(self) -> str:
        """The label of a chart's axis: the unit; without a unit, the column's heading."""
        return self.unit or self.column or self.name


def _attached(unit: str) -> str:
    return "" if not unit else unit if unit == "x" else f" {unit}"


def _metric(
    name: str,
    unit: str,
    label: str,
    form: str,
    better: str = NEITHER,
    *,
    per_rank: bool = True,
    column: str = "",
    of: str = "",
    row: str = "",
) -> str:
    """Defines a metric and returns its name."""
    assert name not in TABLE, name
    TABLE[name] = Metric(name, unit, label, form, better, per_rank, column, of, row)
    return name


def is_defined(name: str) -> bool:
    """Whether a run may log this metric: it is in the table, or it has a prefix of the user's own metrics."""
    return name in TABLE or name.startswith((TASK, VALIDATION))


def metric(name: str) -> Metric:
    """The definition of a metric. Those of the user's own are not in the table; nothing is known of them but their name.

    Raises:
        KeyError: no metric has this name.
    """
    if name not in TABLE and is_defined(name):
        return Metric(name, "", name, ".4g", NEITHER, per_rank=False, row=ROW)
    return TABLE[name]


def higher_is_better(name: str) -> bool:
    """Whether a higher value of a metric is better."""
    return TABLE[name].better == HIGHER


# In the order of the table of one run.
RATE = _metric(
    "rate/samples_per_s", "samples/s", "throughput, steady state", ",.0f", HIGHER, column="samples/s", row=ROW
)
STEP_MS = _metric("time/step_ms", "ms", "step, mean", ",.2f", LOWER, column="step ms", row=ROW)
STEP_P50_MS = _metric("time/step_p50_ms", "ms", "step, median", ".2f", LOWER)
STEP_P95_MS = _metric("time/step_p95_ms", "ms", "step, 95th percentile", ".2f", LOWER, row=ROW)
STEP_MAX_MS = _metric("time/step_max_ms", "ms", "step, longest", ".2f", LOWER, row=ROW)
WAIT_MS = _metric("time/wait_ms", "ms", "wait for the batch", ".2f", LOWER, row=PART)
TRANSFER_MS = _metric("time/transfer_ms", "ms", "transfer to the device", ".2f", LOWER, row=PART)
FORWARD_MS = _metric("time/forward_ms", "ms", "forward", ".2f", LOWER, row=PART)
BACKWARD_MS = _metric("time/backward_ms", "ms", "backward", ".2f", LOWER, row=PART)
OPTIMIZER_MS = _metric("time/optimizer_ms", "ms", "optimizer", ".2f", LOWER, row=PART)
COMPUTE_MS = _metric("time/compute_ms", "ms", "forward, backward, optimizer", ".2f", LOWER, row=PART)
OTHER_MS = _metric("time/other_ms", "ms", "other", ".2f", LOWER, row=PART)
COLLECTIVE_MS = _metric(  # of a job of several ranks; the fastest rank waits longest
    "time/collective_ms",
    "ms",
    "waiting for other ranks, exchanging gradients: in a run a part of forward and backward",
    ".2f",
)
HOST_WAIT_MS = _metric("time/host_wait_ms", "ms", "host wait for the batch", ".2f", LOWER)
HOST_TRANSFER_MS = _metric("time/host_transfer_ms", "ms", "host time of the transfer", ".2f", LOWER)
HOST_FORWARD_MS = _metric("time/host_forward_ms", "ms", "host time of forward", ".2f", LOWER)
HOST_BACKWARD_MS = _metric("time/host_backward_ms", "ms", "host time of backward", ".2f", LOWER)
HOST_OPTIMIZER_MS = _metric("time/host_optimizer_ms", "ms", "host time of the optimizer", ".2f", LOWER)
HOST_COMPUTE_MS = _metric("time/host_compute_ms", "ms", "host time of forward, backward, optimizer", ".2f", LOWER)
WAIT_P50_MS = _metric("time/wait_p50_ms", "ms", "host wait, median", ".2f", LOWER)
WAIT_P95_MS = _metric("time/wait_p95_ms", "ms", "host wait, 95th percentile", ".2f", LOWER)
WAIT_MAX_MS = _metric("time/wait_max_ms", "ms", "host wait, longest", ".2f", LOWER)
WINDOW_S = _metric("time/window_s", "s", "measured steps, total time", ".2f")
WAIT_PCT = _metric(
    "starvation/wait_pct", "%", "host waiting for data", ".1f", LOWER, column="wait", of="the window", row=ROW
)
STARVED_PCT = _metric(
    "starvation/starved_pct",
    "%",
    "device starved of data",
    ".1f",
    LOWER,
    column="starved",
    of="the window",
    row=ROW,
)
STARVED_LOW_PCT = _metric("starvation/starved_low_pct", "%", "starved, lower end of the 95 % CI", ".1f", LOWER)
STARVED_HIGH_PCT = _metric("starvation/starved_high_pct", "%", "starved, upper end of the 95 % CI", ".1f", LOWER)
CHANGE_STEP = _metric("starvation/change_step", "", "step at which the starved share changed", ".0f")
STARVED_BEFORE_PCT = _metric("starvation/starved_before_pct", "%", "starved before that step", ".1f", LOWER)
STARVED_SINCE_PCT = _metric("starvation/starved_since_pct", "%", "starved after that step", ".1f", LOWER)
DELIVERY_PCT = _metric(
    "starvation/delivery_pct", "%", "starved while the batch was on its way", ".1f", LOWER, of="the window", row=PART
)
DRAINED_PCT = _metric("starvation/drained_pct", "%", "steps before which the device had no work left", ".1f")
CLOCKS_PCT = _metric("starvation/clocks_pct", "%", "difference between the clocks of device and host", ".1f", LOWER)
EPOCH_GAP_PCT = _metric("starvation/epoch_gap_pct", "%", "lost between epochs", ".1f", LOWER, of="the loop", row=ROW)
CEILING_RATE = _metric(
    "rate/ceiling_samples_per_s", "samples/s", "ceiling: batches already on the device", ",.0f", HIGHER, row=ROW
)
CONTENDED_RATE = _metric(
    "rate/contended_samples_per_s", "samples/s", "ceiling while the loader runs", ",.0f", HIGHER, row=ROW
)
LOADER_RATE = _metric("rate/loader_samples_per_s", "samples/s", "loader alone", ",.0f", HIGHER, row=ROW)
EXPECTED_RATE = _metric(
    "rate/expected_samples_per_s", "samples/s", "expected from loader and step together", ",.0f", HIGHER, row=ROW
)
HEADROOM_X = _metric("starvation/headroom_x", "x", "headroom, ceiling / rate", ".2f", LOWER, row=ROW)
EFFICIENCY_PCT = _metric("starvation/efficiency_pct", "%", "rate / ceiling", ".0f", HIGHER, column="of ceiling")
UTILIZATION_PCT = _metric(
    "capacity/utilization_pct",
    "%",
    "accelerator utilization, rate / requested rate",
    ".1f",
    HIGHER,
    column="utilization",
    row=ROW,
)
ACCELERATORS_FED = _metric(
    "capacity/accelerators_fed",
    "",
    "emulated accelerators that the loader feeds",
    ".2f",
    HIGHER,
    column="accelerators fed",
    row=ROW,
)
WORKERS_NEEDED = _metric(
    "capacity/workers_needed",
    "",
    "workers or threads to feed one, estimate",
    ".2f",
    LOWER,
    column="workers needed",
    row=ROW,
)
CORES_NEEDED = _metric(
    "capacity/cores_needed", "", "cores to feed one, estimate", ".2f", LOWER, column="cores needed", row=ROW
)
COLD_RATE = _metric("rate/cold_samples_per_s", "samples/s", "with a cold file cache", ",.0f", HIGHER, row=ROW)
WARM_RATE = _metric("rate/warm_samples_per_s", "samples/s", "with a warm file cache", ",.0f", HIGHER)
FETCH_STALL_PCT = _metric("starvation/fetch_stall_pct", "%", "fetch stall, cold versus warm", ".1f", LOWER, row=ROW)
PREP_STALL_PCT = _metric("starvation/prep_stall_pct", "%", "prep stall, warm versus ceiling", ".1f", LOWER, row=ROW)
LOADER_PREPARE_MS = _metric(
    "time/loader_prepare_ms", "ms", "loader, per sample: read, decode and transform", ".3f", LOWER
)
LOADER_COLLATE_MS = _metric("time/loader_collate_ms", "ms", "loader, per sample: put batches together", ".3f", LOWER)
# from the fork of a job that was forked from a template, which has imported most modules: compare it only between jobs that
# started in the same way (tag process.start)
STARTUP_S = _metric("time/startup_s", "s", "process start to training loop", ".2f", LOWER, row=ROW)
FIRST_BATCH_S = _metric("time/first_batch_s", "s", "first batch", ".2f", LOWER, row=ROW)
EPOCH_GAP_MS = _metric("time/epoch_gap_ms", "ms", "gap between epochs, mean", ".1f", LOWER, row=ROW)
TRAIN_S = _metric("time/train_s", "s", "training loop, total", ",.2f", LOWER, column="train s", row=ROW)
CPU_PCT = _metric(
    "cpu/utilization_pct", "%", "CPU use, including workers", ".0f", LOWER, column="cores", of="the cores", row=ROW
)
LOADER_CORES = _metric("cpu/loader_cores", "", "cores that the loader alone keeps busy", ".2f", LOWER, row=ROW)
READ_MIB = _metric("io/read_mib", "MiB", "read from the disk", ",.0f", LOWER)
READ_MIB_PER_S = _metric("io/read_mib_per_s", "MiB/s", "read from the disk", ",.1f", row=ROW)
DEVICE_PCT = _metric("device/utilization_pct", "%", "GPU utilization from NVML", ".0f", row=ROW)
POWER_W = _metric("device/power_w", "W", "GPU power", ".0f", LOWER, row=ROW)
JOULES_PER_SAMPLE = _metric(
    "energy/joules_per_sample", "J/sample", "GPU energy", ".4g", LOWER, column="J/sample", row=ROW
)
THROTTLED_PCT = _metric(
    "device/throttled_pct", "%", "GPU throttled by heat or power", ".0f", LOWER, of="the time", row=ROW
)
SM_CLOCK_MHZ = _metric("device/sm_clock_mhz", "MHz", "GPU clock, mean", ",.0f", HIGHER)
SM_CLOCK_MAX_MHZ = _metric("device/sm_clock_max_mhz", "MHz", "GPU clock, maximum", ",.0f")
MEMORY_CLOCK_MHZ = _metric("device/memory_clock_mhz", "MHz", "GPU memory clock, mean", ",.0f", HIGHER)
DEVICE_TEMPERATURE_C = _metric("device/temperature_c", "°C", "GPU temperature, highest", ".0f", LOWER)
DEVICE_MEMORY_MIB = _metric("device/memory_used_mib", "MiB", "GPU memory in use by all processes", ",.0f", LOWER)
FOREIGN_PROCESSES = _metric("device/foreign_processes", "", "other processes on the GPU", ".0f", LOWER)
# with the pages that a job shares with its template, without the changed pages that only the template uses
HOST_PEAK_MIB = _metric(
    "memory/host_peak_mib", "MiB", "host memory, including workers", ",.0f", LOWER, column="host MiB", row=ROW
)
WORKER_MIB = _metric("memory/worker_mib", "MiB", "host memory of a worker process, mean", ",.1f", LOWER)
DEVICE_PEAK_MIB = _metric("memory/device_peak_mib", "MiB", "device memory", ",.0f", LOWER, row=ROW)
LINES_SHARE_PCT = _metric(
    "lines/share_pct", "%", "slowest line", ".1f", LOWER, per_rank=False, of="a worker's busy time", row=ROW
)
LINES_EXPOSED_PCT = _metric(
    "lines/exposed_pct",
    "%",
    "slowest line, while the loop waits",
    ".1f",
    LOWER,
    per_rank=False,
    of="a worker's busy time",
    row=PART,
)
LINES_BUSY_PCT = _metric("lines/busy_pct", "%", "worker busy, while its lines were profiled", ".1f", per_rank=False)
LINES_LOADER_X = _metric("lines/loader_x", "x", "loader without the slowest line, prediction", ".2f", per_rank=False)
LINES_RUN_X = _metric("lines/run_x", "x", "run without the slowest line, prediction", ".2f", per_rank=False, row=ROW)
LINES_COST_PCT = _metric(
    "lines/cost_pct", "%", "the line profiler's own cost", ".2f", LOWER, per_rank=False, of="the profile's time"
)
SKIPPED_SAMPLES = _metric("data/skipped_samples", "", "skipped samples that did not load", ",.0f", LOWER, row=ROW)
OVERHEAD_PCT = _metric("meter/overhead_pct", "%", "the meter's own cost", ".3f", LOWER, of="a step", row=ROW)
TRAIN_LOSS = _metric("train/loss", "", "training loss, last", ".4f", LOWER, column="train loss", row=ROW)
VAL_LOSS = _metric("val/loss", "", "validation loss, last", ".4f", LOWER, per_rank=False, row=ROW)
VAL_ACCURACY = _metric(
    "val/accuracy", "", "validation accuracy, last", ".4f", HIGHER, per_rank=False, column="val acc", row=ROW
)
NUM_RANKS = _metric("ranks/count", "", "ranks of the job", ",.0f", per_rank=False, row=ROW)
STRAGGLER_EXCESS_PCT = _metric(
    "straggler/excess_pct",
    "%",
    "own time of the slowest rank beyond that of the fastest",
    ".1f",
    LOWER,
    per_rank=False,
    of="the step",
    row=ROW,
)
TUNE_MAKERS = _metric("tune/makers", "", "workers or threads of the chosen settings", ",.0f", LOWER, per_rank=False)
TUNE_LOST_PCT = _metric(  # with the time between epochs, which starvation/starved_pct leaves out
    "tune/lost_pct", "%", "starved with the chosen settings, ends of epochs included", ".1f", LOWER, per_rank=False
)
TUNE_LOST_LOW_PCT = _metric(
    "tune/lost_low_pct", "%", "the same, lower end of the 95 % CI", ".1f", LOWER, per_rank=False
)
TUNE_LOST_HIGH_PCT = _metric(
    "tune/lost_high_pct", "%", "the same, upper end of the 95 % CI", ".1f", LOWER, per_rank=False
)
TUNE_SEARCH_S = _metric("tune/search_s", "s", "search for the chosen settings", ",.0f", LOWER, per_rank=False)
TUNE_CONFIRM_S = _metric("tune/confirm_s", "s", "confirmation of the chosen settings", ",.0f", LOWER, per_rank=False)
TUNE_STARTS_S = _metric(
    "tune/starts_s", "s", "process starts of the search and the confirmation", ",.0f", LOWER, per_rank=False
)
LEARNING_RATE = _metric("train/learning_rate", "", "learning rate", ".3g", per_rank=False)
MACHINE_BUSY_PCT = _metric(
    "machine/busy_pct", "%", "CPU use of other programs, before the run", ".0f", LOWER, per_rank=False, of="the CPU"
)
MACHINE_LOAD = _metric(
    "machine/load_1min", "", "load average over one minute, before the run", ".2f", LOWER, per_rank=False
)
MACHINE_TEMPERATURE_C = _metric(
    "machine/temperature_c", "°C", "CPU temperature, hottest sensor, before the run", ".0f", LOWER, per_rank=False
)
MACHINE_CLOCK_MHZ = _metric("machine/clock_mhz", "MHz", "CPU clock, before the run", ",.0f", per_rank=False)
MACHINE_GPU_TEMPERATURE_C = _metric(
    "machine/gpu_temperature_c", "°C", "hottest GPU, before the run", ".0f", LOWER, per_rank=False
)
MACHINE_GPU_CLOCK_MHZ = _metric(
    "machine/gpu_clock_mhz", "MHz", "slowest GPU clock, before the run", ",.0f", per_rank=False
)
MACHINE_GPU_BUSY_PCT = _metric("machine/gpu_busy_pct", "%", "busiest GPU, before the run", ".0f", LOWER, per_rank=False)
MACHINE_GPU_PROCESSES = _metric(
    "machine/gpu_processes", "", "programs that compute on the GPUs, before the run", ".0f", LOWER, per_rank=False
)

PHASE_MS = {  # phase of a step, or the rest of the step, to its metric
    "wait": WAIT_MS,
    "transfer": TRANSFER_MS,
    "forward": FORWARD_MS,
    "backward": BACKWARD_MS,
    "optimizer": OPTIMIZER_MS,
    "compute": COMPUTE_MS,
    "other": OTHER_MS,
}
HOST_PHASE_MS = {  # the same on the host's clock, for a device with its own clock
    "wait": HOST_WAIT_MS,
    "transfer": HOST_TRANSFER_MS,
    "forward": HOST_FORWARD_MS,
    "backward": HOST_BACKWARD_MS,
    "optimizer": HOST_OPTIMIZER_MS,
    "compute": HOST_COMPUTE_MS,
}
LOADER_STAGE_MS = {"prepare": LOADER_PREPARE_MS, "collate": LOADER_COLLATE_MS}
COMPARED = (RATE, TRAIN_S, STEP_MS, JOULES_PER_SAMPLE)  # metrics for which a comparison can compute gains

# of the job, not of a rank; or derived from the starved share, which has a worst rank itself; or a sum; or neither good nor bad
_WITHOUT_WORST = (
    RATE,
    EXPECTED_RATE,
    STARVED_LOW_PCT,
    STARVED_HIGH_PCT,
    STARVED_BEFORE_PCT,
    STARVED_SINCE_PCT,
    SKIPPED_SAMPLES,
    TRAIN_LOSS,
)
_WORST = {
    entry.name: _metric(
        WORST_RANK + entry.name,
        entry.unit,
        f"{entry.label}; worst rank",
        entry.format,
        entry.better,
        per_rank=False,
        of=entry.of,
    )
    for entry in list(TABLE.values())
    if entry.per_rank and entry.better and entry.name not in _WITHOUT_WORST
}


def worst_of(name: str) -> str | None:
    """The metric that has the worst rank's value; None if there is none: only one value per job, or no better direction."""
    return _WORST.get(name)


def markdown() -> str:
    """The documentation page of all metrics."""
    lines = [
        "# Metrics",
        "",
        "Every metric that a run logs. `docs/measuring.md` has the definitions. Generated by `python -m loaderlab.metrics`.",
        "",
        f"A job of several ranks has one value of each metric, and `{WORST_RANK}<metric>` has the value of its worst rank, if the last",
        "column says so: `docs/measuring.md`, Several ranks.",
        "",
        "| metric | unit | meaning | better | per rank | worst rank |",
        "|---|---|---|---|---|---|",
    ]
    yes = {True: "yes", False: "no"}
    for entry in TABLE.values():
        if not entry.name.startswith(WORST_RANK):
            unit = f"{entry.unit} of {entry.of}" if entry.of else entry.unit
            by_rank = f"{yes[entry.per_rank]} | {yes[entry.name in _WORST]}"
            lines.append(f"| `{entry.name}` | {unit} | {entry.label} | {entry.better} | {by_rank} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
