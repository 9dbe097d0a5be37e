"""Notes on a comparison: other programs were running, too noisy, other versions, other thread counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Arm
from loaderlab.compare.pairs import no_number
from loaderlab.compare.stats import Ratio, repeats_for
from loaderlab.parity.status import NOT_CHECKED, PARITY
from loaderlab.system import machine
from loaderlab.tracking.records import RunRecord

THREADS = "torch_threads.in_force"


def arm_notes(arm: Arm, partner: Arm | None, gain: Ratio | None) -> list[str]:
    """What a reader of one arm's figures should know.

    Args:
        partner: the arm that it is compared with; None where there is none.
        gain: over the partner; None where they have no round in common.
    """
    notes = [*_other_programs(arm), *_lost_numbers(arm), *_parity(arm)]
    if gain is not None and gain.noisy and gain.deviation is not None:
        count = repeats_for(gain.deviation)
        notes.append(
            "too noisy to tell 10 %: a difference of 5 % would take "
            + (f"about {count} repeats" if count else "over 1,000 repeats")
        )
    if partner is not None:
        notes += [*_other_versions(arm, partner), *_other_threads(arm, partner)]
        if gain is None:
            notes.append(f"no round in common with {partner.label}: no gain can be told")
    return notes


def _other_programs(arm: Arm) -> list[str]:
    notes = []
    busy = max((run.figures.get(metrics.MACHINE_BUSY_PCT, 0.0) for run in arm.runs), default=0.0)
    if busy > machine.BUSY_PCT:
        share = metrics.metric(metrics.MACHINE_BUSY_PCT).text(busy)
        notes.append(f"measured beside other programs, which kept up to {share} busy")
    on_gpu = max((run.figures.get(metrics.MACHINE_GPU_PROCESSES, 0.0) for run in arm.runs), default=0.0)
    if on_gpu:
        count = metrics.metric(metrics.MACHINE_GPU_PROCESSES).number(on_gpu)
        notes.append(f"measured beside {count} other programs on the GPU")
    return notes


def _lost_numbers(arm: Arm) -> list[str]:
    counts = [(name, sum(no_number(run, name) for run in arm.runs)) for name in (metrics.TRAIN_LOSS, metrics.VAL_LOSS)]
    return [
        f"its {metrics.metric(name).short_label} ended as no number in {count} of {len(arm.runs)} runs"
        for name, count in counts
        if count
    ]


def _parity(arm: Arm) -> list[str]:
    unchecked = sorted({status for status in arm.tags(PARITY) if status.startswith(NOT_CHECKED)})
    if not unchecked:
        return []
    return [f"{'; '.join(unchecked)}: whether it does the same work as the others is not known"]


def _other_threads(arm: Arm, partner: Arm) -> list[str]:
    """Where step and loader share the cores, the number of compute threads changes both."""
    own, other = set(arm.tags(THREADS)), set(partner.tags(THREADS))
    if not own or not other or own == other or not arm.runs[0].shares_cores:
        return []
    return [
        f"its step computes with {_counted(own, 'thread')}, that of {partner.label} with {_counted(other, 'thread')}: "
        "a part of the difference may be that. Type for example: torch_threads=1"
    ]


def _counted(values: Iterable[str], what: str) -> str:
    """``1 thread``, ``1 or 2 threads``."""
    listed = sorted(values)
    return f"{' or '.join(listed)} {what}{'s' * (listed != ['1'])}"


def _other_versions(arm: Arm, partner: Arm) -> list[str]:
    own, other = set(arm.tags("versions")), set(partner.tags("versions"))
    if own == other or not own or not other:
        return []
    listed = f"{', '.join(sorted(own))}, there {', '.join(sorted(other))}"
    return [f"other versions than {partner.label}: {listed}"]


def run_notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader of the whole comparison should know."""
    notes = []
    versions = sorted({run.tags["versions"] for run in runs if "versions" in run.tags})
    if len(versions) > 1:
        notes.append(f"runs of {len(versions)} sets of versions: {'; '.join(versions)}")
    if len({run.parent_id or run.run_id for run in runs}) > 1:
        notes.append(
            "not all of these runs belong to one sweep: they were not interleaved, and the machine may have changed between them"
        )
    return notes
