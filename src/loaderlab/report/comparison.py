"""From recorded runs to a comparison: which arms there are, which did the same work, and who is how many times faster.

Pure: records in, figures out. An arm is a set of runs whose settings differ in nothing but the seed. Arms are compared
only within a group that did the same work on the same hardware.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from loaderlab import machine
from loaderlab.config import METRICS, UserError
from loaderlab.jobs import NOT_CHECKED, PARITY, UNLIKE_WORK, Missing, Recorded
from loaderlab.report.ladder import RUNGS
from loaderlab.stats import CONFIDENCE, LEAST_PAIRS, Ratio, median, ratio, repeats_for, spread

IGNORED = ("repeat", "seed", "resume", "study", "rung", "evaluate", "device")  # they do not make another arm
IGNORED_GROUPS = ("tracking.", "checkpoint.", "sweep.", "measure.")
WORK = ("batch_size", "accumulate", "drop_last", "epochs", "steps", "measure.sync", "measure.warmup_steps")
WORK_GROUPS = ("data.", "model.", "optimizer.")
SAME_WORK = ("model.compile", "model.channels_last")  # other ways to do it
WORK_TAGS = ("device.name", "data.samples", "data.digest")
LEARNING = ("val/loss", "val/accuracy")
LEARNED = {"val/loss": "validation loss", "val/accuracy": "validation accuracy", "train/loss": "training loss"}
THREADS = "torch_threads.in_force"


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric.startswith(("rate/", "val/accuracy"))


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
    runs: list[Recorded]
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
        return ", ".join(kind if len(said) == 1 else f"{kind} ({count} of {said.total()})" for kind, count in said.most_common())  # fmt: skip

    @property
    def verdict(self) -> str:
        """What all but one in three of its runs say; "inconclusive" where they disagree, empty where none says anything."""
        said = Counter(self.tags("verdict"))
        if not said:
            return ""
        kind, count = said.most_common(1)[0]
        return kind if 3 * count >= 2 * said.total() else "inconclusive"

    @property
    def representative(self) -> Recorded:
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


def compare(
    title: str,
    runs: Sequence[Recorded],
    missing: Iterable[Missing] = (),
    *,
    metric: str = METRICS[0],
    baseline: Mapping[str, str] | None = None,
) -> Comparison:
    """Compares runs.

    Args:
        title: of the whole.
        runs: in the order in which their arms are to stand; those that did not finish are told as missing.
        missing: jobs without a run, and why.
        metric: that gains are of.
        baseline: setting to value: the arms that others are held against; None: the first of each group.

    Raises:
        UserError: no finished run has the metric, or no arm is the baseline's.
    """
    measured = [run for run in runs if run.status == "FINISHED" and metric in run.figures]
    told = [*missing, *_not_measured(runs, metric)]
    if not measured:
        raise UserError(_nothing(runs, metric, told))
    columns = _columns(measured)
    shown, groups = _shown(measured, columns, metric)
    arms = [arm for group in groups for arm in group.arms]
    if baseline is not None:
        known = {name for run in measured for name in run.settings}
        baseline = {f"{name}.name" if f"{name}.name" in known else name: value for name, value in baseline.items()}
        _check_baseline(baseline, arms, columns)
    for group in groups:
        _pair(group, baseline, columns)
        if shown == ["rung"]:
            for before, arm in pairwise(group.arms):
                arm.over_previous = gain(arm, before)
        _explain(group)
    notes = _notes(measured)
    studies = {run.settings.get("study", "null") for run in measured}
    study = next(iter(studies)) if len(studies) == 1 and studies != {"null"} else None
    return Comparison(title, metric, shown, groups, told, notes, study)


def _shown(runs: Sequence[Recorded], columns: list[str], metric: str) -> tuple[list[str], list[Group]]:
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


def short(name: str) -> str:
    """The name of a setting as a column: ``loader`` for ``loader.name``."""
    return name.removesuffix(".name")


# ---- arms and groups -------------------------------------------------------------------------------------------


def _not_measured(runs: Sequence[Recorded], metric: str) -> list[Missing]:
    """Runs without a figure, unless the same job was finished at another time."""
    done = {(run.parent_id, run.tags["config.hash"]) for run in runs if run.status == "FINISHED" and "config.hash" in run.tags}  # fmt: skip
    found = []
    for run in runs:
        if run.status == "FINISHED" and metric not in run.figures:
            found.append(Missing(run.name, f"finished without {metric}"))
        elif run.status != "FINISHED" and (run.parent_id, run.tags.get("config.hash")) not in done:
            why = run.tags.get("error", "")
            found.append(Missing(run.name, run.status.lower() + (f": {why}" if why else "")))
    return found


def _nothing(runs: Sequence[Recorded], metric: str, told: Sequence[Missing]) -> str:
    if not runs and not told:
        return "there is no run to compare. Type: python -m experiments.train -m repeat=1,2,3 loader=native,dali"
    listed = "; ".join(f"{entry.name}: {entry.why}" for entry in told[:5])
    known = sorted({name for run in runs if run.status == "FINISHED" for name in run.figures if name in METRICS} - {metric})  # fmt: skip
    other = f" Type for example: metric={known[0]}" if known else ""
    return f"metric={metric}: none of {len(runs)} runs has it ({listed}).{other}"


def _is_work(name: str) -> bool:
    return name in WORK or (name.startswith(WORK_GROUPS) and name not in SAME_WORK)


def _columns(runs: Sequence[Recorded]) -> list[str]:
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


def _work_of(run: Recorded) -> dict[str, str]:
    work = {name: value for name, value in run.settings.items() if _is_work(name)}
    work |= {name: run.tags[name] for name in WORK_TAGS if name in run.tags}
    told = run.tags.get(PARITY, "")
    work[PARITY] = told if told.startswith(UNLIKE_WORK) else "no mismatch found"
    if "data.digest" in work:  # the same samples may lie elsewhere
        work.pop("data.root", None)
        work.pop("data.val_root", None)
    return work


def _arms(runs: Sequence[Recorded], columns: Sequence[str], shown: Sequence[str], metric: str) -> list[Arm]:
    found: dict[tuple[object, ...], Arm] = {}
    for run in runs:
        settings = {name: run.settings.get(name) for name in dict.fromkeys((*columns, *shown))}
        key = (*settings.values(), *sorted(_work_of(run).items()))
        if key not in found:
            found[key] = Arm(settings, _label(run, shown), [], metric)
        found[key].runs.append(run)
    return list(found.values())


def _label(run: Recorded, columns: Sequence[str]) -> str:
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
    names = [name for name in dict.fromkeys(name for work in works for name in work) if len({work[name] for work in works if name in work}) > 1]  # fmt: skip
    found: dict[tuple[str, ...], Group] = {}
    for arm, work in zip(arms, works, strict=True):
        differs = {name: work[name] for name in names if name in work}
        found.setdefault(tuple(differs.items()), Group(differs, [])).arms.append(arm)  # type: ignore[arg-type]
    return list(found.values())


def _check_baseline(baseline: Mapping[str, str], arms: Sequence[Arm], columns: Sequence[str]) -> None:
    for name, value in baseline.items():
        known = sorted({arm.runs[0].settings[name] for arm in arms if name in arm.runs[0].settings})
        if not known:
            settings = ", ".join(short(column) for column in columns) or "none"
            raise UserError(
                f"baseline={short(name)}:{value}: no run has this setting. Settings that differ: {settings}"
            )
        if value not in known:
            raise UserError(f"baseline={short(name)}:{value}: no arm has this value. {short(name)} is one of: "
                            f"{', '.join(known)}. Type for example: baseline={short(name)}:{known[0]}")  # fmt: skip


# ---- pairs -----------------------------------------------------------------------------------------------------


def _pair(group: Group, baseline: Mapping[str, str] | None, columns: Sequence[str]) -> None:
    if baseline is None:
        first = next((arm for arm in group.arms if not arm.is_ceiling), group.arms[0])
        bases = [first]
    else:
        bases = [arm for arm in group.arms if all(arm.runs[0].settings.get(name) == value for name, value in baseline.items())]  # fmt: skip
    others = [name for name in columns if name not in (baseline or {})]
    group.baseline = bases[0] if len(bases) == 1 else None
    for base in bases:
        base.is_baseline = True
    compared = [arm for arm in group.arms if arm not in bases]
    candidates = [arm for arm in compared if not arm.is_ceiling]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(candidates))
    for arm in compared:
        arm.partner = _partner(arm, bases, others)
        if arm.partner is None:
            continue
        arm.gain = gain(arm, arm.partner)
        arm.strict = gain(arm, arm.partner, confidence)
        if not arm.is_ceiling and not arm.partner.is_ceiling:
            arm.learning = _learning(arm, arm.partner)


def _partner(arm: Arm, bases: Sequence[Arm], others: Sequence[str]) -> Arm | None:
    """The only baseline, or the one that agrees in every other setting that both have."""
    if len(bases) == 1:
        return bases[0]
    agreeing = [
        base for base in bases
        if all(arm.settings[name] == base.settings[name] for name in others if None not in (arm.settings[name], base.settings[name]))
    ]  # fmt: skip
    return agreeing[0] if len(agreeing) == 1 else None


def _rounds(runs: Iterable[Recorded], *, of_sweeps: bool) -> dict[tuple[str | None, int, int], Recorded]:
    """Runs by (sweep, seed in force, how many runs of it had that seed before)."""
    found: dict[tuple[str | None, int, int], Recorded] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        sweep = run.parent_id if of_sweeps else None
        seed = int(run.settings.get("seed", 0)) + int(run.settings.get("repeat", 0))
        again = sum(1 for known in found if known[:2] == (sweep, seed))
        found[sweep, seed, again] = run
    return found


def together(arm: Arm, base: Arm) -> list[tuple[Recorded, Recorded]]:
    """The runs of both in the rounds that both have: of the same sweep where they share one, else of the same seed."""
    shared = {run.parent_id for run in arm.runs} & {run.parent_id for run in base.runs}
    own, other = (
        _rounds((run for run in entry.runs if not shared or run.parent_id in shared), of_sweeps=bool(shared))
        for entry in (arm, base)
    )
    return [(own[key], other[key]) for key in own if key in other]


def paired(arm: Arm, base: Arm, metric: str) -> list[tuple[float, float]]:
    """Figures of both in the rounds that both have; what is not above 0 makes no ratio."""
    pairs = [(own.figures.get(metric, 0.0), other.figures.get(metric, 0.0)) for own, other in together(arm, base)]
    return [pair for pair in pairs if min(pair) > 0]


def not_told_apart(group: Group, best: Arm) -> list[Arm]:
    """The other arms with a loader that are not shown to be worse than this one."""
    others = [arm for arm in group.arms if arm is not best and not arm.is_ceiling]
    gains = [(arm, gain(best, arm)) for arm in others]
    return [arm for arm, found in gains if found is None or not found.above]


def gain(arm: Arm, base: Arm, confidence: float = CONFIDENCE) -> Ratio | None:
    """How many times better an arm is than another, paired by round; None where they have none in common."""
    pairs = paired(arm, base, arm.metric)
    if not pairs:
        return None
    if not higher_is_better(arm.metric):
        pairs = [(second, first) for first, second in pairs]
    return ratio(pairs, confidence)


def _learning(arm: Arm, base: Arm) -> list[str]:
    """What shows that they did not learn the same: by validation where there is one, else by the training loss."""
    told = _lost(arm, base)
    by = _learned_by(arm, base)
    for name, pairs in by.items():
        if pairs and (found := ratio(pairs, 1 - (1 - CONFIDENCE) / len(by))).shown:
            told.append(f"{LEARNED[name]} {found.value:.3f}x ({found.low:.3f} to {found.high:.3f})")
    return told


def _learned_by(arm: Arm, base: Arm) -> dict[str, list[tuple[float, float]]]:
    """The figures by which learning is compared, with their pairs."""
    validated = {name: pairs for name in LEARNING if (pairs := paired(arm, base, name))}
    return validated or {"train/loss": paired(arm, base, "train/loss")}


def _lost(arm: Arm, base: Arm) -> list[str]:
    """Rounds in which only one of the two has a loss that is no number, or an accuracy of 0."""
    both = together(arm, base)
    told = []
    for name, fails, why in (
        ("train/loss", _no_number, "no number"),
        ("val/loss", _no_number, "no number"),
        ("val/accuracy", _none_right, "0"),
    ):
        failed = [(fails(own, name), fails(other, name)) for own, other in both]
        for whose, count in (("", failed.count((True, False))), (f" of {base.label}", failed.count((False, True)))):
            if count:
                told.append(f"{LEARNED[name]}{whose} is {why} in {count} of {len(both)} rounds")
    return told


def _no_number(run: Recorded, name: str) -> bool:
    return name in run.lost


def _none_right(run: Recorded, name: str) -> bool:
    return run.figures.get(name, 1.0) <= 0


def learning_rounds(arm: Arm) -> int:
    """Rounds in which what it learned could be held against what its partner did."""
    if arm.partner is None:
        return 0
    return min(map(len, _learned_by(arm, arm.partner).values()))


# ---- what a reader should know ---------------------------------------------------------------------------------


def _explain(group: Group) -> None:
    for arm in group.arms:
        busy = max((run.figures.get("machine/busy_pct", 0.0) for run in arm.runs), default=0.0)
        if busy > machine.BUSY_PCT:
            arm.notes.append(f"measured beside other programs, which kept up to {busy:.0f} % of the processor busy")
        hot = max((run.figures.get("machine/gpu_processes", 0.0) for run in arm.runs), default=0.0)
        if hot:
            arm.notes.append(f"measured beside {hot:.0f} other programs on the GPU")
        for name in ("train/loss", "val/loss"):
            if lost := sum(_no_number(run, name) for run in arm.runs):
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


def _notes(runs: Sequence[Recorded]) -> list[str]:
    notes = []
    versions = sorted({run.tags["versions"] for run in runs if "versions" in run.tags})
    if len(versions) > 1:
        notes.append(f"runs of {len(versions)} sets of versions: {'; '.join(versions)}")
    if len({run.parent_id or run.run_id for run in runs}) > 1:
        notes.append("not all of these runs belong to one sweep: they were not interleaved, and the machine may have changed between them")  # fmt: skip
    return notes
