"""Every metric: its name, unit, label and format, and whether more of it is better. The only place that defines them.

A run logs no other name (`loaderlab.tracking` asserts it). The terminal, the page, the charts, MLflow's views, ``fail_if``
and ``docs/metrics.md`` read this table. Code uses the constants, so a misspelt name does not import.

``python -m loaderlab.metrics`` prints ``docs/metrics.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", ""
ROW, PART = "row", "part"
TABLE: dict[str, Metric] = {}


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        name: in MLflow; the unit last.
        unit: as people write it; empty for a plain number.
        label: in a table of one run, and in the docs.
        format: of the number, without its unit, as in `format`.
        better: HIGHER, LOWER or NEITHER.
        per_rank: each rank of a run measures its own; otherwise it belongs to the whole run.
        column: a short heading where runs stand side by side; empty if it is not shown there.
        of: what a percentage is a share of.
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
        """The number alone: ``1,234``."""
        return format(value, self.format)

    def cell(self, value: float) -> str:
        """For a column, whose heading names the unit unless it is % or x: ``12.3 %``, ``1,234``."""
        return f"{self.number(value)}{_attached(self.unit)}" if self.unit in ("%", "x") else self.number(value)

    def quantity(self, value: float) -> str:
        """With its unit: ``1,234 samples/s``."""
        return f"{self.number(value)}{_attached(self.unit)}"

    def text(self, value: float) -> str:
        """With its unit, and what it is a share of: ``12.3 % of the window``."""
        return self.quantity(value) + (f" of {self.of}" if self.of else "")

    @property
    def short_label(self) -> str:
        """The label up to its comma: ``validation loss``, ``host memory``."""
        return self.label.partition(",")[0]

    @property
    def axis(self) -> str:
        """The label of a chart's axis: the unit, or the column's heading if there is none."""
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


def metric(name: str) -> Metric:
    """The definition of a metric.

    Raises:
        KeyError: no metric has this name.
    """
    return TABLE[name]


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better."""
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
HOST_WAIT_MS = _metric("time/host_wait_ms", "ms", "host's wait for the batch", ".2f", LOWER)
HOST_TRANSFER_MS = _metric("time/host_transfer_ms", "ms", "host's part of the transfer", ".2f", LOWER)
HOST_FORWARD_MS = _metric("time/host_forward_ms", "ms", "host's part of forward", ".2f", LOWER)
HOST_BACKWARD_MS = _metric("time/host_backward_ms", "ms", "host's part of backward", ".2f", LOWER)
HOST_OPTIMIZER_MS = _metric("time/host_optimizer_ms", "ms", "host's part of the optimizer", ".2f", LOWER)
HOST_COMPUTE_MS = _metric("time/host_compute_ms", "ms", "host's part of forward, backward, optimizer", ".2f", LOWER)
WAIT_P50_MS = _metric("time/wait_p50_ms", "ms", "host's wait, median", ".2f", LOWER)
WAIT_P95_MS = _metric("time/wait_p95_ms", "ms", "host's wait, 95th percentile", ".2f", LOWER)
WAIT_MAX_MS = _metric("time/wait_max_ms", "ms", "host's wait, longest", ".2f", LOWER)
WINDOW_S = _metric("time/window_s", "s", "measured steps, all of them", ".2f")
WAIT_PCT = _metric(
    "starvation/wait_pct", "%", "host waiting for data", ".1f", LOWER, column="wait", of="the window", row=ROW
)
STARVED_PCT = _metric(
    "starvation/starved_pct",
    "%",
    "device dry for want of data",
    ".1f",
    LOWER,
    column="starved",
    of="the window",
    row=ROW,
)
STARVED_LOW_PCT = _metric("starvation/starved_low_pct", "%", "starved, lower end of the 95 % interval", ".1f", LOWER)
STARVED_HIGH_PCT = _metric("starvation/starved_high_pct", "%", "starved, upper end of the 95 % interval", ".1f", LOWER)
CHANGE_STEP = _metric("starvation/change_step", "", "step from which the starved share is another", ".0f")
STARVED_BEFORE_PCT = _metric("starvation/starved_before_pct", "%", "starved before that step", ".1f", LOWER)
STARVED_SINCE_PCT = _metric("starvation/starved_since_pct", "%", "starved from that step on", ".1f", LOWER)
DELIVERY_PCT = _metric(
    "starvation/delivery_pct", "%", "of it, batch on its way", ".1f", LOWER, of="the window", row=PART
)
DRAINED_PCT = _metric("starvation/drained_pct", "%", "steps before which the device had finished all its work", ".1f")
CLOCKS_PCT = _metric("starvation/clocks_pct", "%", "difference of the device's clock and the host's", ".1f", LOWER)
EPOCH_GAP_PCT = _metric("starvation/epoch_gap_pct", "%", "lost between epochs", ".1f", LOWER, of="the loop", row=ROW)
CEILING_RATE = _metric("rate/ceiling_samples_per_s", "samples/s", "ceiling: batches at hand", ",.0f", HIGHER, row=ROW)
CONTENDED_RATE = _metric(
    "rate/contended_samples_per_s", "samples/s", "ceiling, loader beside it", ",.0f", HIGHER, row=ROW
)
LOADER_RATE = _metric("rate/loader_samples_per_s", "samples/s", "loader alone", ",.0f", HIGHER, row=ROW)
EXPECTED_RATE = _metric(
    "rate/expected_samples_per_s", "samples/s", "to expect of both together", ",.0f", HIGHER, row=ROW
)
HEADROOM_X = _metric("starvation/headroom_x", "x", "headroom, ceiling / rate", ".2f", LOWER, row=ROW)
EFFICIENCY_PCT = _metric("starvation/efficiency_pct", "%", "rate / ceiling", ".0f", HIGHER, column="of ceiling")
COLD_RATE = _metric("rate/cold_samples_per_s", "samples/s", "with a cold file cache", ",.0f", HIGHER, row=ROW)
WARM_RATE = _metric("rate/warm_samples_per_s", "samples/s", "with a warm file cache", ",.0f", HIGHER)
FETCH_STALL_PCT = _metric("starvation/fetch_stall_pct", "%", "fetch stall, cold against warm", ".1f", LOWER, row=ROW)
PREP_STALL_PCT = _metric("starvation/prep_stall_pct", "%", "prep stall, warm against ceiling", ".1f", LOWER, row=ROW)
LOADER_PREPARE_MS = _metric("time/loader_prepare_ms", "ms", "per sample, to read, decode and transform", ".3f", LOWER)
LOADER_COLLATE_MS = _metric("time/loader_collate_ms", "ms", "per sample, to put batches together", ".3f", LOWER)
STARTUP_S = _metric("time/startup_s", "s", "process start to loop", ".2f", LOWER, row=ROW)
FIRST_BATCH_S = _metric("time/first_batch_s", "s", "first batch", ".2f", LOWER, row=ROW)
EPOCH_GAP_MS = _metric("time/epoch_gap_ms", "ms", "gap between epochs, mean", ".1f", LOWER, row=ROW)
TRAIN_S = _metric("time/train_s", "s", "training loop, all of it", ",.2f", LOWER, column="train s", row=ROW)
CPU_PCT = _metric(
    "cpu/utilization_pct", "%", "processor, workers included", ".0f", LOWER, column="cores", of="the cores", row=ROW
)
LOADER_CORES = _metric("cpu/loader_cores", "", "cores that the loader alone keeps busy", ".2f", LOWER, row=ROW)
READ_MIB = _metric("io/read_mib", "MiB", "read from the disk", ",.0f", LOWER)
READ_MIB_PER_S = _metric("io/read_mib_per_s", "MiB/s", "read from the disk", ",.1f", row=ROW)
DEVICE_PCT = _metric("device/utilization_pct", "%", "GPU utilisation by NVML", ".0f", row=ROW)
POWER_W = _metric("device/power_w", "W", "GPU power", ".0f", LOWER, row=ROW)
JOULES_PER_SAMPLE = _metric(
    "energy/joules_per_sample", "J a sample", "GPU energy", ".4g", LOWER, column="J/sample", row=ROW
)
THROTTLED_PCT = _metric(
    "device/throttled_pct", "%", "GPU slowed down by heat or power", ".0f", LOWER, of="the time", row=ROW
)
SM_CLOCK_MHZ = _metric("device/sm_clock_mhz", "MHz", "GPU clock, mean", ",.0f", HIGHER)
SM_CLOCK_MAX_MHZ = _metric("device/sm_clock_max_mhz", "MHz", "GPU clock, the most it allows", ",.0f")
MEMORY_CLOCK_MHZ = _metric("device/memory_clock_mhz", "MHz", "GPU memory clock, mean", ",.0f", HIGHER)
DEVICE_TEMPERATURE_C = _metric("device/temperature_c", "°C", "GPU temperature, highest", ".0f", LOWER)
DEVICE_MEMORY_MIB = _metric("device/memory_used_mib", "MiB", "GPU memory in use by all processes", ",.0f", LOWER)
FOREIGN_PROCESSES = _metric("device/foreign_processes", "", "other processes on the GPU", ".0f", LOWER)
HOST_PEAK_MIB = _metric(
    "memory/host_peak_mib", "MiB", "host memory, workers included", ",.0f", LOWER, column="host MiB", row=ROW
)
DEVICE_PEAK_MIB = _metric("memory/device_peak_mib", "MiB", "device memory", ",.0f", LOWER, row=ROW)
SKIPPED_SAMPLES = _metric("data/skipped_samples", "", "samples that did not load, skipped", ",.0f", LOWER, row=ROW)
OVERHEAD_PCT = _metric("meter/overhead_pct", "%", "the meter's own cost", ".3f", LOWER, of="a step", row=ROW)
TRAIN_LOSS = _metric("train/loss", "", "training loss, last", ".4f", LOWER, column="train loss", row=ROW)
VAL_LOSS = _metric("val/loss", "", "validation loss, last", ".4f", LOWER, per_rank=False, row=ROW)
VAL_ACCURACY = _metric(
    "val/accuracy", "", "validation accuracy, last", ".4f", HIGHER, per_rank=False, column="val acc", row=ROW
)
LEARNING_RATE = _metric("train/learning_rate", "", "learning rate", ".3g", per_rank=False)
MACHINE_BUSY_PCT = _metric(
    "machine/busy_pct", "%", "other programs, before the run", ".0f", LOWER, per_rank=False, of="the processor"
)
MACHINE_LOAD = _metric(
    "machine/load_1min", "", "load average over a minute, before the run", ".2f", LOWER, per_rank=False
)
MACHINE_TEMPERATURE_C = _metric(
    "machine/temperature_c", "°C", "processor's hottest sensor, before the run", ".0f", LOWER, per_rank=False
)
MACHINE_CLOCK_MHZ = _metric("machine/clock_mhz", "MHz", "processor's clock, before the run", ",.0f", per_rank=False)
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

PHASE_MS = {  # phase of a step, or what is left of it, to its metric
    "wait": WAIT_MS,
    "transfer": TRANSFER_MS,
    "forward": FORWARD_MS,
    "backward": BACKWARD_MS,
    "optimizer": OPTIMIZER_MS,
    "compute": COMPUTE_MS,
    "other": OTHER_MS,
}
HOST_PHASE_MS = {  # the same on the host's clock, of a device with a clock of its own
    "wait": HOST_WAIT_MS,
    "transfer": HOST_TRANSFER_MS,
    "forward": HOST_FORWARD_MS,
    "backward": HOST_BACKWARD_MS,
    "optimizer": HOST_OPTIMIZER_MS,
    "compute": HOST_COMPUTE_MS,
}
LOADER_STAGE_MS = {"prepare": LOADER_PREPARE_MS, "collate": LOADER_COLLATE_MS}
COMPARED = (RATE, TRAIN_S, STEP_MS, JOULES_PER_SAMPLE)  # what a comparison's gains can be of


def markdown() -> str:
    """The page of all metrics."""
    lines = [
        "# Metrics",
        "",
        "Every metric that a run logs. `docs/measuring.md` has the definitions. Made by `python -m loaderlab.metrics`.",
        "",
        "| metric | unit | what it is | better | per rank |",
        "|---|---|---|---|---|",
    ]
    for entry in TABLE.values():
        unit = f"{entry.unit} of {entry.of}" if entry.of else entry.unit
        lines.append(
            f"| `{entry.name}` | {unit} | {entry.label} | {entry.better} | {'yes' if entry.per_rank else 'no'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
