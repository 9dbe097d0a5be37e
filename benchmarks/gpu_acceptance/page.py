"""Collects the results of all parts, and composes their page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.catalog import OVERHEADS, PARTS
from benchmarks.gpu_acceptance.criteria import REFERENCES, Criterion, criteria
from benchmarks.gpu_acceptance.kept import Outcome
from benchmarks.gpu_acceptance.parts import TESTS, Setting
from benchmarks.gpu_acceptance.running import State, read, state_of, sweep_of
from loaderlab.compare.arms import Comparison
from loaderlab.config import UserError
from loaderlab.metrics import JOULES_PER_SAMPLE, POWER_W
from loaderlab.report import page
from loaderlab.report.markdown import markdown_table
from loaderlab.runs.chosen_runs import comparisons_of_sweep
from loaderlab.tracking.store import Store

OUTCOME_TEXTS = {"begun": "did not finish", "chosen": "not run"}  # of tests; other outcomes are their own text


@dataclass
class Results:
    """The results of all parts.

    Attributes:
        states: the runs of each part, by its name.
        overheads: the result of `benchmarks.overhead.main` of each part that runs it, by the part's name.
        outcomes: of the tests of each part that is tests: by the part's name and the test's.
    """

    states: Mapping[str, State]
    environment: dict[str, Any] | None = None
    overheads: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, Mapping[str, Outcome]] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)

    @property
    def criteria(self) -> list[Criterion]:
        """The targets, each with its result."""
        cores = None if self.environment is None else self.environment["machine"]["cores_available"]
        return list(criteria(self.comparisons, self.overheads, self.tests, cores))

    @property
    def tests(self) -> list[Outcome]:
        """The outcome of each test of all parts."""
        return [test for outcomes in self.outcomes.values() for test in outcomes.values()]

    def tests_with(self, outcome: str) -> list[Outcome]:
        """The tests with this outcome."""
        return [test for test in self.tests if test.outcome == outcome]


def gather(setting: Setting) -> Results:
    """The results in a folder."""
    results = Results({part.name: state_of(setting, part) for part in PARTS})
    results.outcomes = {part: kept.read(setting.folder / part) for part in TESTS}
    for part in PARTS:
        if not results.states[part.name].turns:  # the files there belong to another sweep
            continue
        file = setting.folder / part.name / "found.json"
        if sweep := sweep_of(setting, part):
            try:
                (results.comparisons[part.name],) = comparisons_of_sweep(*sweep)
            except UserError:  # no job has finished
                continue
            results.stores[part.name] = sweep[0]
        elif part.name in OVERHEADS and file.exists():
            results.overheads[part.name] = read(file)
        elif file.exists():
            results.environment = read(file)
    return results


def compose(results: Results, pictures: Mapping[str, str], data_folder: str) -> str:
    """The page in Markdown.

    Args:
        pictures: for each sweep its picture in Markdown, or the reason why there is none.
        data_folder: the folder next to the page, with the data of its tables.
    """
    assert results.environment is not None
    judged = results.criteria
    turns = [turn for state in results.states.values() for turn in state.turns]
    commits = sorted({turn.commit for turn in turns})
    days = sorted({turn.began[:10] for turn in turns})
    lines = [
        f"# {results.environment['machine']['device']}",
        "",
        f"Measured by `python -m benchmarks.gpu_acceptance`, {' to '.join(dict.fromkeys((days[0], days[-1])))}, at commit {', '.join(commits)}. "
        f"{sum(criterion.reached is True for criterion in judged)} of {len(judged)} targets are reached"
        f"{_count(judged, None, 'not measured or not shown')}{_count(judged, False, 'not reached')}.",
        "",
        markdown_table(
            ["target", "", "measured"],
            [[criterion.target, criterion.verdict, criterion.measured] for criterion in judged],
        ),
    ]
    for part in PARTS:
        lines += [f"## {part.title}", "", *_state(results.states[part.name])]
        if part.name == "environment":
            lines += _environment(results.environment)
        elif part.name in TESTS:
            lines += _tests(results.outcomes.get(part.name, {}), TESTS[part.name], data_folder)
        elif part.name in OVERHEADS:
            lines += _overhead(part.name, results.overheads.get(part.name), data_folder)
        elif part.name in results.comparisons:
            lines += [page.markdown(results.comparisons[part.name], [pictures[part.name]]).rstrip("\n")]
            lines += [
                f"- metrics: [of each arm]({data_folder}/{part.name}.csv), [of each run]({data_folder}/{part.name}.runs.csv)",
                "",
            ]
        elif results.states[part.name].turns:
            lines += ["No job has finished.", ""]
    return "\n".join([*lines, "## Energy", "", *_energy(results.comparisons)])


def _count(judged: list[Criterion], reached: bool | None, label: str) -> str:
    count = sum(criterion.reached is reached for criterion in judged)
    return f", {count} {label}" if count else ""


def _state(state: State) -> list[str]:
    """Why results of a part are missing; empty if the part is done."""
    match state.status:
        case "not run":
            return ["Not run.", ""]
        case "cut":
            return [f"Stopped after {state.seconds:.0f} s: some results are missing.", ""]
        case "failed":
            return [f"Ended with exit code {state.turns[-1].exit_code}: some results are missing.", ""]
        case "partly":
            return [f"{state.num_done} of {state.num_stages} stages are done: some arms are missing.", ""]
    return []


def _environment(environment: Mapping[str, Any]) -> Iterator[str]:
    """The machine as a list."""
    load, storage = environment["load"], environment["storage"]
    for name, value in environment["machine"].items():
        if name not in ("host", "load_average"):
            yield f"- {name.replace('_', ' ')}: {_as_text(value)}"
    yield f"- under load (matrix products): {_as_text({key: round(value, 1) if isinstance(value, float) else value for key, value in load.items() if key not in ('held_down', 'problem')})}"
    if load.get("problem"):
        yield f"- clocks and power were not measured: {load['problem']}"
    elif "held_down" in load:
        yield f"- clock limited by: {_as_text({name: f'{share} % of the samples' for name, share in load['held_down'].items()}) or 'nothing'}"
    yield f"- storage: {storage['write_mib_per_s']:,.0f} MiB/s written, {storage['read_mib_per_s']:,.0f} MiB/s read, one file of {storage['size_mib']} MiB"
    yield ""


def _as_text(value: Any) -> str:
    return (
        ", ".join(f"{key.replace('_', ' ')} {entry}" for key, entry in value.items())
        if isinstance(value, dict)
        else str(value)
    )


def _tests(outcomes: Mapping[str, Outcome], keyword: str, data_folder: str) -> Iterator[str]:
    counts = Counter(OUTCOME_TEXTS.get(test.outcome, test.outcome) for test in outcomes.values())
    if not counts:
        return
    for kind in ("passed", "failed", "skipped"):
        counts.setdefault(kind, 0)
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    yield f"`pytest -m gpu -k '{keyword}'`: {listed}; [all by name]({data_folder}/{kept.FILE})."
    yield ""
    for outcome in ("failed", "begun", "chosen"):
        label = OUTCOME_TEXTS.get(outcome, outcome)
        yield from (f"- {label}: `{test.test}`" for test in outcomes.values() if test.outcome == outcome)
    for why, count in Counter(test.why for test in outcomes.values() if test.outcome == "skipped").most_common():
        yield f"- skipped {count}: {why}"
    yield ""


def _overhead(part: str, overhead: Mapping[str, Any] | None, data_folder: str) -> list[str]:
    if overhead is None:
        return []
    ratios = {"metered / bare step": overhead.get("ratio")}
    ratios |= {f"ceiling / {label}": overhead["ceiling"].get(name) for name, label in REFERENCES.items()}
    rows = [[name, f"{ratio[0]:.4f}", f"{ratio[1]:.4f} to {ratio[2]:.4f}"] for name, ratio in ratios.items() if ratio]
    layout = ", channels last" if overhead["channels_last"] else ""
    step = f", a step takes {overhead['step_ms']:.3f} ms" if "step_ms" in overhead else ""
    return [
        f"{overhead['model']} in {overhead['precision']}{layout}{step}; [all results]({data_folder}/{part}.json).",
        "",
        markdown_table(["ratio", "median", "95 % CI"], rows),
    ]


def _energy(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The energy of each arm that measured it: median and range over its runs."""
    rows = []
    for part in PARTS:
        for arm in comparisons[part.name].arms if part.name in comparisons else ():
            if joules := sorted(run.figures[JOULES_PER_SAMPLE] for run in arm.runs if JOULES_PER_SAMPLE in run.figures):
                watts = arm.median(POWER_W)
                cells = [
                    f"{arm.median(JOULES_PER_SAMPLE):.4g}",
                    f"{joules[0]:.4g} to {joules[-1]:.4g}",
                    str(len(joules)),
                ]
                rows.append([part.title, arm.label, *cells, "–" if watts is None else f"{watts:.0f}"])
    if not rows:
        return ["Not measured: no run has recorded it.", ""]
    return [
        "Energy of the whole board by NVML's counter (from its power if the counter does not change), from the first measured step of each epoch to its end.",
        "",
        markdown_table(["part", "arm", "J/sample", "range", "n", "W"], rows),
    ]
