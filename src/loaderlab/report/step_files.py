"""The raw steps of a loop as files: ``steps.csv`` and ``breakdown.png``, with ``emulated`` in the names of emulated ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.meter.step import PHASES, Step
from loaderlab.meter.summary import measured
from loaderlab.report.naming import named
from loaderlab.system.files import write_text

COARSE = ("wait", "transfer", "compute")  # the phases of a loop that does not mark forward, backward and optimizer


def write_steps(
    folder: Path,
    title: str,
    loop: LoopRecord,
    figures: Mapping[str, float],
    untimed: Sequence[Step] = (),
    *,
    emulated: bool = False,
) -> None:
    """Writes both files. ``title``: of the picture; ``untimed``, ``emulated``: see `to_csv`."""
    from loaderlab.report.step_picture import breakdown  # the import takes half a second

    coarse = not loop.phases_marked
    text = to_csv(loop.steps, loop.warmup_steps, loop.parallel, coarse=coarse, untimed=untimed, emulated=emulated)
    write_text(folder / named("steps.csv", emulated=emulated), text)
    breakdown(folder / named("breakdown.png", emulated=emulated), title, figures, loop.steps, emulated=emulated)


def to_csv(
    steps: Sequence[Step],
    warmup_steps: int,
    ramp: int = 1,
    *,
    coarse: bool = False,
    untimed: Sequence[Step] = (),
    emulated: bool = False,
) -> str:
    """Every step's raw phases as CSV, in ms. Device columns are empty if the device has no clock of its own.

    Args:
        coarse: forward, backward and optimizer are one column, compute, since a watched loop does not mark them.
        untimed: steps after the others that are not measured, because their times on a failed device are lost.
        emulated: on an emulated accelerator, whose steps have no loss.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = COARSE if coarse else PHASES
    columns = [
        "epoch",
        "step",
        "num_samples",
        "measured",
        *["loss"] * (not emulated),
        *(f"host_{name}_ms" for name in names),
        "host_other_ms",
    ]
    device_columns = [f"device_{name}_ms" for name in ("gap", "delivery", *names[2:], "trailing")]
    writer.writerow(columns + device_columns)
    window = {step.step for step in measured(steps, warmup_steps, ramp)}
    for step in (*steps, *untimed):
        timed, host = step.device, [value / 1e6 for value in step.host]
        device = [timed.gap, timed.delivery, timed.forward, timed.backward, timed.optimizer] if timed else []
        trailing = [timed.trailing] if timed else []
        if coarse:
            host, device = [*host[:2], sum(host[2:])], [*device[:2], sum(device[2:])] if timed else []
        writer.writerow(
            [step.epoch, step.step, step.num_samples, int(step.step in window)]
            + [f"{step.loss:.6g}"] * (not emulated)
            + [f"{value:.4f}" for value in (*host, step.other / 1e6)]
            + ([f"{value:.4f}" for value in device + trailing] or [""] * len(device_columns))
        )
    return out.getvalue()
