"""The raw steps of a loop as files: ``steps.csv`` and ``breakdown.png``, with ``emulated`` in the names of emulated ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from loaderlab.diagnosis.figures import LoopRecord
from loaderlab.meter.step import PHASES, Step
from loaderlab.meter.summary import measured
from loaderlab.report.naming import named
from loaderlab.system.files import atomic_file, write_text

COARSE = ("wait", "transfer", "compute")  # the phases of a loop that does not mark forward, backward and optimizer
COLLECTIVE = "collective_ms"


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
    writer.writerow(_columns(coarse=coarse, emulated=emulated))
    window = {step.step for step in measured(steps, warmup_steps, ramp)}
    for step in (*steps, *untimed):
        writer.writerow(_row(step, step.step in window, coarse=coarse, emulated=emulated))
    return out.getvalue()


def write_ranks_csv(
    path: Path,
    ranks: Iterable[tuple[int, Sequence[Step]]],
    warmup_steps: int,
    ramp: int = 1,
    *,
    coarse: bool = False,
    emulated: bool = False,
) -> None:
    """Writes every step of every rank: the columns of `to_csv` after the rank, and the time in collectives at the end.

    Args:
        ranks: (rank, all its steps); they are written one rank after the other, so a generator needs memory for one rank only.
    """
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["rank", *_columns(coarse=coarse, emulated=emulated), COLLECTIVE, f"device_{COLLECTIVE}"])
        for rank, steps in ranks:
            window = {step.step for step in measured(steps, warmup_steps, ramp)}
            for step in steps:
                values = _row(step, step.step in window, coarse=coarse, emulated=emulated)
                on_device = "" if step.device is None else f"{step.device.collective:.4f}"
                writer.writerow([rank, *values, f"{step.collective_ns / 1e6:.4f}", on_device])


def _columns(*, coarse: bool, emulated: bool) -> list[str]:
    names = COARSE if coarse else PHASES
    return [
        "epoch",
        "step",
        "num_samples",
        "measured",
        *["loss"] * (not emulated),
        *(f"host_{name}_ms" for name in names),
        "host_other_ms",
        *(f"device_{name}_ms" for name in ("gap", "delivery", *names[2:], "trailing")),
    ]


def _row(step: Step, is_measured: bool, *, coarse: bool, emulated: bool) -> list[object]:
    """The values of `_columns`."""
    timed, host = step.device, [value / 1e6 for value in step.host]
    device = [timed.gap, timed.delivery, timed.forward, timed.backward, timed.optimizer] if timed else []
    if coarse:
        host, device = [*host[:2], sum(host[2:])], [*device[:2], sum(device[2:])] if timed else []
    device += [timed.trailing] if timed else []
    return [
        *(step.epoch, step.step, step.num_samples, int(is_measured)),
        *[f"{step.loss:.6g}"] * (not emulated),
        *(f"{value:.4f}" for value in (*host, step.other / 1e6)),
        *([f"{value:.4f}" for value in device] or [""] * (len(COARSE if coarse else PHASES) + 1)),
    ]
