"""Caveats of a comparison: other programs ran, too noisy, different versions, different thread counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from loaderlab import metrics
from loaderlab.compare.arms import Arm
from loaderlab.compare.pairs import is_not_finite
from loaderlab.compare.stats import Ratio, repeats_for
from loaderlab.parity.status import NOT_CHECKED, PARITY
from loaderlab.system import machine
from loaderlab.tracking.records import NODE, PROCESSOR, RunRecord

THREADS = "torch_threads.in_force"
MAX_NODES = 8  # named in a note


def arm_notes(arm: Arm, partner: Arm | None, gain: Ratio | None) -> list[str]:
    """The caveats of one arm's results.

    Args:
        partner: the arm that it is compared with; None if there is none.
        gain: over the partner; None if they have no repeat in common.
    """
    notes = [*_other_programs(arm), *_diverged(arm), *_parity(arm)]
    if gain is not None and gain.noisy and gain.deviation is not None:
        count = repeats_for(gain.deviation)
        notes.append(
            "too noisy to show a difference of 10 %; to show 5 % would take "
            + (f"about {count} repeats" if count else "over 1,000 repeats")
        )
    if partner is not None:
        notes += [
            *_different_versions(arm, partner),
            *_different_threads(arm, partner),
            *_different_nodes(arm, partner),
        ]
        if gain is None:
            notes.append(f"it has no repeat in common with {partner.label}, so there is no gain")
    return notes


def _other_programs(arm: Arm) -> list[str]:
    notes = []
    busy = max((run.figures.get(metrics.MACHINE_BUSY_PCT, 0.0) for run in arm.runs), default=0.0)
    if busy > machine.BUSY_PCT:
        share = metrics.metric(metrics.MACHINE_BUSY_PCT).text(busy)
        notes.append(f"measured while other programs ran, which kept up to {share} busy")
    on_gpu = max((run.figures.get(metrics.MACHINE_GPU_PROCESSES, 0.0) for run in arm.runs), default=0.0)
    if on_gpu and not arm.is_emulated:  # it uses no GPU
        count = metrics.metric(metrics.MACHINE_GPU_PROCESSES).number(on_gpu)
        notes.append(f"measured while {count} other programs ran on the GPU")
    return notes


def _diverged(arm: Arm) -> list[str]:
    counts = [
        (name, sum(is_not_finite(run, name) for run in arm.runs)) for name in (metrics.TRAIN_LOSS, metrics.VAL_LOSS)
    ]
    return [
        f"its {metrics.metric(name).short_label} ended as NaN or infinity in {count} of {len(arm.runs)} runs"
        for name, count in counts
        if count
    ]


def _parity(arm: Arm) -> list[str]:
    unchecked = sorted({status for status in arm.tags(PARITY) if status.startswith(NOT_CHECKED)})
    if not unchecked:
        return []
    return [f"{'; '.join(unchecked)}. It may not do the same work as the other arms"]


def _different_threads(arm: Arm, partner: Arm) -> list[str]:
    """A note if both arms used different numbers of threads. On a CPU, step and loader share the cores, so both change."""
    own, other = set(arm.tags(THREADS)), set(partner.tags(THREADS))
    if not own or not other or own == other or not arm.runs[0].shares_cores:
        return []
    return [
        f"its step used {_counted(own, 'thread')}, but the step of {partner.label} used {_counted(other, 'thread')}, which "
        "may explain part of the difference. To exclude that, type for example: torch_threads=1"
    ]


def _counted(values: Iterable[str], noun: str) -> str:
    """``1 thread``, ``1 or 2 threads``."""
    listed = sorted(values)
    return f"{' or '.join(listed)} {noun}{'s' * (listed != ['1'])}"


def _different_versions(arm: Arm, partner: Arm) -> list[str]:
    own, other = set(arm.tags("versions")), set(partner.tags("versions"))
    if own == other or not own or not other:
        return []
    listed = f"{', '.join(sorted(own))} instead of {', '.join(sorted(other))}"
    return [f"different versions from {partner.label}: {listed}"]


def _different_nodes(arm: Arm, partner: Arm) -> list[str]:
    """A note if no node measured both arms: a faster node would look like a faster arm."""
    own, other = set(arm.tags(NODE)), set(partner.tags(NODE))
    if not own or not other or own & other:
        return []
    return [
        f"measured on {', '.join(sorted(own))}, but {partner.label} on {', '.join(sorted(other))}: the nodes may explain the "
        "difference"
    ]


def _nodes(runs: Sequence[RunRecord]) -> list[str]:
    """A note if the runs were measured on several nodes, with their processors if these differ."""
    processors = {run.tags[NODE]: run.tags.get(PROCESSOR, "") for run in runs if NODE in run.tags}
    if len(processors) < 2:
        return []
    differ = len(set(processors.values())) > 1
    nodes = [f"{node} ({processor})" if differ else node for node, processor in sorted(processors.items())]
    shown = nodes[:MAX_NODES] + [f"and {len(nodes) - MAX_NODES} more"] * (len(nodes) > MAX_NODES)
    listed = ", ".join(shown)
    hardware = "with different processors" if differ else "and the spread includes how these differ"
    return [f"the runs were measured on {len(nodes)} nodes, {hardware}: {listed}"]


def run_notes(runs: Sequence[RunRecord]) -> list[str]:
    """The caveats of the whole comparison."""
    notes = []
    versions = sorted({run.tags["versions"] for run in runs if "versions" in run.tags})
    if len(versions) > 1:
        notes.append(f"the runs used {len(versions)} different sets of versions: {'; '.join(versions)}")
    notes += _nodes(runs)
    if len({run.parent_id or run.run_id for run in runs}) > 1:
        notes.append(
            "these runs are not from one sweep: they were not interleaved, and the machine may have changed between them"
        )
    return notes
