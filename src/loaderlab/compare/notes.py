"""What a reader should know before believing a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Arm, Group
from loaderlab.compare.pairs import LEARNED, no_number
from loaderlab.compare.stats import repeats_for
from loaderlab.parity.status import NOT_CHECKED, PARITY
from loaderlab.system import machine
from loaderlab.tracking.records import RunRecord

THREADS = "torch_threads.in_force"


def explain(group: Group) -> None:
    for arm in group.arms:
        busy = max((run.figures.get(metrics.MACHINE_BUSY_PCT, 0.0) for run in arm.runs), default=0.0)
        if busy > machine.BUSY_PCT:
            arm.notes.append(f"measured beside other programs, which kept up to {busy:.0f} % of the processor busy")
        hot = max((run.figures.get(metrics.MACHINE_GPU_PROCESSES, 0.0) for run in arm.runs), default=0.0)
        if hot:
            arm.notes.append(f"measured beside {hot:.0f} other programs on the GPU")
        for name in (metrics.TRAIN_LOSS, metrics.VAL_LOSS):
            if lost := sum(no_number(run, name) for run in arm.runs):
                arm.notes.append(f"its {LEARNED[name]} ended as no number in {lost} of {len(arm.runs)} runs")
        if unchecked := {told for told in arm.tags(PARITY) if told.startswith(NOT_CHECKED)}:
            arm.notes.append(
                f"{'; '.join(sorted(unchecked))}: whether it does the same work as the others is not known"
            )
        if arm.gain is not None and arm.gain.noisy and arm.gain.deviation is not None:
            count = repeats_for(arm.gain.deviation)
            arm.notes.append(
                "too noisy to tell 10 %: a difference of 5 % would take "
                + (f"about {count} repeats" if count else "over 1,000 repeats")
            )
        if arm.partner is not None:
            arm.notes += [
                f"other versions than {arm.partner.label}: {text}" for text in _other_versions(arm, arm.partner)
            ]
            own, other = set(arm.tags(THREADS)), set(arm.partner.tags(THREADS))
            if own and other and own != other and arm.runs[0].tags.get("device.type") == "cpu":
                arm.notes.append(
                    f"its step computes with {_counted(own, 'thread')}, that of {arm.partner.label} with {_counted(other, 'thread')}: "
                    "a part of the difference may be that. Type for example: torch_threads=1"
                )
            if arm.gain is None:
                arm.notes.append(f"no round in common with {arm.partner.label}: no gain can be told")


def _counted(values: Iterable[str], what: str) -> str:
    """``1 thread``, ``1 or 2 threads``."""
    listed = sorted(values)
    return f"{' or '.join(listed)} {what}{'s' * (listed != ['1'])}"


def _other_versions(arm: Arm, base: Arm) -> list[str]:
    own, other = set(arm.tags("versions")), set(base.tags("versions"))
    return (
        [] if own == other or not own or not other else [f"{', '.join(sorted(own))}, there {', '.join(sorted(other))}"]
    )


def notes_on(runs: Sequence[RunRecord]) -> list[str]:
    notes = []
    versions = sorted({run.tags["versions"] for run in runs if "versions" in run.tags})
    if len(versions) > 1:
        notes.append(f"runs of {len(versions)} sets of versions: {'; '.join(versions)}")
    if len({run.parent_id or run.run_id for run in runs}) > 1:
        notes.append(
            "not all of these runs belong to one sweep: they were not interleaved, and the machine may have changed between them"
        )
    return notes
