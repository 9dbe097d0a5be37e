"""Groups runs into arms, and arms by the work and the hardware."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from loaderlab.compare.arms import Arm
from loaderlab.compare.ladder import RUNGS
from loaderlab.compare.marks import marked
from loaderlab.config.launch import UNMEASURED
from loaderlab.parity.status import PARITY, UNLIKE_WORK
from loaderlab.tracking.records import RunRecord

IGNORED = ("repeat", "seed", "resume", "study", "rung", "evaluate", "device", *UNMEASURED)  # do not distinguish arms
REFERENCES = tuple(  # what its speed is compared with; they do not change the emulated accelerator
    f"accelerator.{name}" for name in ("min_utilization", "sample_kb", "made_for", "published_sample_ms")
)
IN_NAME = tuple(f"accelerator.{name}" for name in ("name", "step_ms", "samples_per_s", "batch_size", "source"))
IGNORED_GROUPS = ("tracking.", "checkpoint.", "sweep.", "measure.")
WORK = ("batch_size", "accumulate", "drop_last", "epochs", "steps", "measure.sync", "measure.warmup_steps")
WORK_GROUPS = ("data.", "model.", "optimizer.", "accelerator.")
SAME_WORK = ("model.compile", "model.channels_last")  # other ways to do the same work
DEVICE = "device.name"
WORK_TAGS = (DEVICE, "data.samples", "data.digest", "ranks")  # more ranks have a larger global batch
COLUMN_ORDER = ("sweep", "loader.name", "loader", "precision", "model")

ArmsByWork = list[tuple[dict[str, str], list[Arm]]]  # the settings by which a group's work differs, and its arms


def may_distinguish(name: str) -> bool:
    """Whether runs that differ in this setting can be different arms, or do different work."""
    return name not in (*IGNORED, *REFERENCES) and not name.startswith(IGNORED_GROUPS)


def columns_of(runs: Sequence[RunRecord]) -> list[str]:
    """Settings with more than one value among the runs that have them, without those that change the work."""
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for name, value in run.settings.items():
            if may_distinguish(name) and not _is_work(name):
                values[name].add(value)

    def place(name: str) -> tuple[int, str]:
        indices = [index for index, group in enumerate(COLUMN_ORDER) if name == group or name.startswith(f"{group}.")]
        return (min(indices, default=len(COLUMN_ORDER)), name)

    return sorted((name for name, distinct in values.items() if len(distinct) > 1), key=place)


def grouped(runs: Sequence[RunRecord], columns: list[str], metric: str) -> tuple[list[str], ArmsByWork]:
    """The columns that name the arms, and the arms grouped by their work. A ladder's column is its rung, if that is unique."""
    if all(run.settings.get("rung", "null") != "null" for run in runs):
        for names in (["rung"], ["sweep", "rung"]):
            groups = _by_work(sorted(_arms(runs, columns, names, metric), key=_rung))
            if all(len({arm.label for arm in arms}) == len(arms) for _, arms in groups):
                return names, groups
    return columns, _by_work(_arms(runs, columns, columns, metric))


def may_be_same_arm(unfinished: RunRecord, measured: RunRecord) -> bool:
    """Whether a run that ended early is of the same arm as a measured one, by the settings that both recorded. A run that ended
    before it recorded its settings is compared by the name of its arm."""
    own = {name: value for name, value in unfinished.settings.items() if may_distinguish(name)}
    if not own:
        return "arm" in unfinished.tags and unfinished.tags["arm"] == measured.tags.get("arm")
    return all(measured.settings.get(name, value) == value for name, value in own.items())


def _rung(arm: Arm) -> tuple[str, int]:
    """The arm's place in the ladder, within its sweep."""
    name = arm.runs[0].settings["rung"]
    return arm.runs[0].settings.get("sweep", ""), RUNGS.index(name) if name in RUNGS else len(RUNGS)


def _is_work(name: str) -> bool:
    return name in WORK or (name.startswith(WORK_GROUPS) and name not in (*SAME_WORK, *REFERENCES))


def _work_of(run: RunRecord) -> dict[str, str]:
    work = {name: value for name, value in run.settings.items() if _is_work(name)}
    work |= {name: run.tags[name] for name in WORK_TAGS if name in run.tags}
    parity = run.tags.get(PARITY, "")
    work[PARITY] = parity if parity.startswith(UNLIKE_WORK) else "no mismatch"
    if "data.digest" in work:  # the same samples may be in another folder
        work.pop("data.root", None)
        work.pop("data.val_root", None)
    return work


def _arms(runs: Sequence[RunRecord], columns: Sequence[str], shown: Sequence[str], metric: str) -> list[Arm]:
    names = tuple(dict.fromkeys((*columns, *shown)))
    runs_of: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for run in runs:
        runs_of[(*map(run.settings.get, names), *sorted(_work_of(run).items()))].append(run)
    return [
        Arm({name: own[0].settings.get(name) for name in names}, _label(own[0], shown), tuple(own), metric)
        for own in runs_of.values()
    ]


def _label(run: RunRecord, columns: Sequence[str]) -> str:
    """``dali · bf16 · num_workers=2``: a choice by its value alone, other settings with their names."""
    parts = []
    for name in columns:
        value = run.settings.get(name)
        if value is None:
            continue
        choice = name.endswith(".name") or name in ("rung", "sweep")
        parts.append(value if choice else f"{name.rpartition('.')[2]}={value}")
    return marked(" · ".join(parts) or run.tags.get("arm", run.name), emulated=run.is_emulated)


def _by_work(arms: Sequence[Arm]) -> ArmsByWork:
    """Arms grouped by their work. A setting that an older record does not have counts as equal."""
    works = [_work_of(arm.runs[0]) for arm in arms]
    names = [
        name
        for name in dict.fromkeys(name for work in works for name in work)
        if len({work[name] for work in works if name in work}) > 1
    ]
    groups: dict[tuple[tuple[str, str], ...], list[Arm]] = defaultdict(list)
    for arm, work in zip(arms, works, strict=True):
        groups[tuple((name, work[name]) for name in names if name in work)].append(arm)
    return [(_shown(dict(work)), members) for work, members in groups.items()]


def _shown(work: dict[str, str]) -> dict[str, str]:
    """The differences of a group's work. The name of an emulated device contains some of its settings."""
    return {name: value for name, value in work.items() if name not in IN_NAME or DEVICE not in work}
