"""Arms: runs that differ in nothing but the seed, in groups that did the same work on the same hardware."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from loaderlab.compare.ladder import RUNGS
from loaderlab.compare.stats import LEAST_PAIRS, Ratio, median, spread
from loaderlab.parity.status import PARITY, UNLIKE_WORK
from loaderlab.tracking.records import Missing, RunRecord

IGNORED = ("repeat", "seed", "resume", "study", "rung", "evaluate", "device")  # they do not make another arm
IGNORED_GROUPS = ("tracking.", "checkpoint.", "sweep.", "measure.")
WORK = ("batch_size", "accumulate", "drop_last", "epochs", "steps", "measure.sync", "measure.warmup_steps")
WORK_GROUPS = ("data.", "model.", "optimizer.")
SAME_WORK = ("model.compile", "model.channels_last")  # other ways to do it
WORK_TAGS = ("device.name", "data.samples", "data.digest")


@dataclass(eq=False)
class Arm:
    """Runs that differ in nothing but the seed.

    Attributes:
        settings: of the comparison's columns; None where this arm's choice has no such setting.
        runs: finished ones that have the metric.
        is_baseline: others are held against it.
        partner: the arm that it is compared with; None for a baseline, and where there is none.
        gain: how many times better than the partner, paired by round.
        strict: the same at the level for a choice among all arms of the group.
        over_previous: for a ladder's rung, how many times better than the rung before.
        learning: in words, how it learns differently from the partner; empty where no difference is shown.
        notes: in words, what a reader of its figures should know.
    """

    settings: dict[str, str | None]
    label: str
    runs: list[RunRecord]
    metric: str
    is_baseline: bool = False
    partner: Arm | None = None
    gain: Ratio | None = None
    strict: Ratio | None = None
    over_previous: Ratio | None = None
    learning: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [run.figures[self.metric] for run in self.runs]

    def median(self, metric: str) -> float | None:
        """Over the runs that measured it; None where none did."""
        values = [run.figures[metric] for run in self.runs if metric in run.figures]
        return median(values) if values else None

    def num_measured(self, metric: str) -> int:
        """Runs that measured it."""
        return sum(metric in run.figures for run in self.runs)

    def settled(self, metric: str) -> float | None:
        """The median where enough runs measured it to speak of the arm: three, or all of fewer."""
        return self.median(metric) if self.num_measured(metric) >= min(LEAST_PAIRS, len(self.runs)) else None

    def tags(self, name: str) -> list[str]:
        """What its runs say under a tag, those that have it."""
        return [run.tags[name] for run in self.runs if run.tags.get(name)]

    @property
    def interval(self) -> tuple[float, float] | None:
        return spread(self.values)

    @property
    def is_ceiling(self) -> bool:
        """Fed from batches at hand: no loader, and not meant to learn."""
        return self.runs[0].settings.get("loader.name") == "replay"

    @property
    def verdicts(self) -> str:
        """The verdict of its runs, with how many said so where they disagree."""
        said = Counter(self.tags("verdict"))
        return ", ".join(
            kind if len(said) == 1 else f"{kind} ({count} of {said.total()})" for kind, count in said.most_common()
        )

    @property
    def verdict(self) -> str:
        """What all but one in three of its runs say; "inconclusive" where they disagree, empty where none says anything."""
        said = Counter(self.tags("verdict"))
        if not said:
            return ""
        kind, count = said.most_common(1)[0]
        return kind if 3 * count >= 2 * said.total() else "inconclusive"

    @property
    def representative(self) -> RunRecord:
        """The run in the middle: whose steps and losses are drawn."""
        return sorted(self.runs, key=lambda run: run.figures[self.metric])[(len(self.runs) - 1) // 2]


@dataclass(eq=False)
class Group:
    """Arms that did the same work on the same hardware.

    Attributes:
        work: what tells this group from the others.
        baseline: the arm that most others are compared with, where there is a single one.
    """

    work: dict[str, str]
    arms: list[Arm]
    baseline: Arm | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """What `compare` gives.

    Attributes:
        columns: settings that differ, the ladder's ``rung`` in their place where there is one.
        missing: what was not measured, and why.
    """

    title: str
    metric: str
    columns: list[str]
    groups: list[Group]
    missing: list[Missing]
    notes: list[str]
    study: str | None = None

    @property
    def is_ladder(self) -> bool:
        """Whether its arms are the rungs of one ladder."""
        return self.columns == ["rung"]

    @property
    def arms(self) -> list[Arm]:
        return [arm for group in self.groups for arm in group.arms]


def short(name: str) -> str:
    """The name of a setting as a column: ``loader`` for ``loader.name``."""
    return name.removesuffix(".name")


def columns_of(runs: Sequence[RunRecord]) -> list[str]:
    """Settings with more than one value among the runs that have them, other than what makes another work."""
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for name, value in run.settings.items():
            if not (name in IGNORED or name.startswith(IGNORED_GROUPS) or _is_work(name)):
                values[name].add(value)
    groups = ["sweep", "loader.name", "loader", "precision", "model"]

    def place(name: str) -> tuple[int, str]:
        found = [index for index, group in enumerate(groups) if name == group or name.startswith(f"{group}.")]
        return (min(found, default=len(groups)), name)

    return sorted((name for name, found in values.items() if len(found) > 1), key=place)


def grouped(runs: Sequence[RunRecord], columns: list[str], metric: str) -> tuple[list[str], list[Group]]:
    """The columns that name the arms: of a ladder its rung, where that tells its arms apart; and the arms in groups."""
    if all(run.settings.get("rung", "null") != "null" for run in runs):
        for names in (["rung"], ["sweep", "rung"]):
            groups = _groups(sorted(_arms(runs, columns, names, metric), key=_rung))
            if all(len({arm.label for arm in group.arms}) == len(group.arms) for group in groups):
                return names, groups
    return columns, _groups(_arms(runs, columns, columns, metric))


def _rung(arm: Arm) -> tuple[str, int]:
    """Its place in the ladder, within its sweep."""
    name = arm.runs[0].settings["rung"]
    return arm.runs[0].settings.get("sweep", ""), RUNGS.index(name) if name in RUNGS else len(RUNGS)


def _is_work(name: str) -> bool:
    return name in WORK or (name.startswith(WORK_GROUPS) and name not in SAME_WORK)


def _work_of(run: RunRecord) -> dict[str, str]:
    work = {name: value for name, value in run.settings.items() if _is_work(name)}
    work |= {name: run.tags[name] for name in WORK_TAGS if name in run.tags}
    told = run.tags.get(PARITY, "")
    work[PARITY] = told if told.startswith(UNLIKE_WORK) else "no mismatch found"
    if "data.digest" in work:  # the same samples may lie elsewhere
        work.pop("data.root", None)
        work.pop("data.val_root", None)
    return work


def _arms(runs: Sequence[RunRecord], columns: Sequence[str], shown: Sequence[str], metric: str) -> list[Arm]:
    found: dict[tuple[object, ...], Arm] = {}
    for run in runs:
        settings = {name: run.settings.get(name) for name in dict.fromkeys((*columns, *shown))}
        key = (*settings.values(), *sorted(_work_of(run).items()))
        if key not in found:
            found[key] = Arm(settings, _label(run, shown), [], metric)
        found[key].runs.append(run)
    return list(found.values())


def _label(run: RunRecord, columns: Sequence[str]) -> str:
    """``dali · bf16 · num_workers=2``: choices by their name alone, other settings with theirs."""
    parts = []
    for name in columns:
        value = run.settings.get(name)
        if value is None:
            continue
        choice = name.endswith(".name") or name in ("rung", "sweep")
        parts.append(value if choice else f"{name.rpartition('.')[2]}={value}")
    return " · ".join(parts) or run.tags.get("arm", run.name)


def _groups(arms: Sequence[Arm]) -> list[Group]:
    """Arms by their work. What an older record does not tell is taken as the same."""
    works = [_work_of(arm.runs[0]) for arm in arms]
    names = [
        name
        for name in dict.fromkeys(name for work in works for name in work)
        if len({work[name] for work in works if name in work}) > 1
    ]
    found: dict[tuple[str, ...], Group] = {}
    for arm, work in zip(arms, works, strict=True):
        differs = {name: work[name] for name in names if name in work}
        found.setdefault(tuple(differs.items()), Group(differs, [])).arms.append(arm)  # type: ignore[arg-type]
    return list(found.values())
