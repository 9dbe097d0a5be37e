"""What all parts have found, as one page."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_acceptance import kept
from benchmarks.gpu_acceptance.criteria import Criterion, criteria
from benchmarks.gpu_acceptance.kept import Outcome
from benchmarks.gpu_acceptance.parts import LADDER_VECTORS, PARTS, Setting
from benchmarks.gpu_acceptance.running import State, read, state_of, sweep_of
from loaderlab.compare.arms import Comparison
from loaderlab.config import PROJECT, UserError
from loaderlab.metrics import JOULES_PER_SAMPLE, POWER_W
from loaderlab.report import page
from loaderlab.report.arm_table import arm_table
from loaderlab.report.markdown import markdown_table
from loaderlab.runs import compare_runs
from loaderlab.system.causes import described
from loaderlab.tracking.store import Store

RESULTS = PROJECT / "docs" / "results"
LADDER_PAGE = PROJECT / "docs" / "results.md"
LADDER_PLACE = ("<!-- the ladder: replaced by --ladder -->", "<!-- end of the ladder -->")
MACHINE = ("processor", "cores_available", "device")  # what tells one from another
CALLED = {"begun": "did not end", "chosen": "not run"}  # of tests


@dataclass
class Found:
    """Of every part that has left something.

    Attributes:
        states: how each part went, by its name.
        tests: how each test ended, by its name.
    """

    states: Mapping[str, State]
    environment: dict[str, Any] | None = None
    overhead: dict[str, Any] | None = None
    tests: Mapping[str, Outcome] = field(default_factory=dict)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    stores: dict[str, Store] = field(default_factory=dict)

    @property
    def criteria(self) -> list[Criterion]:
        cores = None if self.environment is None else self.environment["machine"]["cores_available"]
        return list(criteria(self.comparisons, self.overhead, self.tests.values(), cores))

    def with_tests(self, outcome: str) -> list[Outcome]:
        return [test for test in self.tests.values() if test.outcome == outcome]


def gather(setting: Setting) -> Found:
    found = Found({part.name: state_of(setting, part) for part in PARTS}, tests=kept.read(setting.folder / "tests"))
    for part in PARTS:
        if not found.states[part.name].turns:  # what lies there is of another sweep
            continue
        file = setting.folder / part.name / "found.json"
        if sweep := sweep_of(setting, part):
            try:
                found.comparisons[part.name] = compare_runs.comparison_of_sweep(*sweep)
            except UserError:  # none of its jobs has finished
                continue
            found.stores[part.name] = sweep[0]
        elif file.exists():
            setattr(found, part.name, read(file))
    return found


def compose(found: Found, pictures: Mapping[str, str], beside: str) -> str:
    """The page in Markdown.

    Args:
        pictures: of a sweep, in Markdown: its picture, or why there is none.
        beside: the folder beside the page that holds what its tables were made of.
    """
    assert found.environment is not None
    judged = found.criteria
    turns = [turn for state in found.states.values() for turn in state.turns]
    commits = sorted({turn.commit for turn in turns})
    days = sorted({turn.began[:10] for turn in turns})
    lines = [
        f"# {found.environment['machine']['device']}",
        "",
        f"Measured by `python -m benchmarks.gpu_acceptance`, {' to '.join(dict.fromkeys((days[0], days[-1])))}, on commit {', '.join(commits)}. "
        f"{sum(criterion.reached is True for criterion in judged)} of {len(judged)} targets are reached"
        f"{_count(judged, None, 'not measured or not shown')}{_count(judged, False, 'not reached')}.",
        "",
        markdown_table(["target", "", "measured"], [[each.what, each.verdict, each.measured] for each in judged]),
    ]
    for part in PARTS:
        lines += [f"## {part.title}", "", *_state(found.states[part.name])]
        if part.name == "environment":
            lines += _environment(found.environment)
        elif part.name == "tests":
            lines += _tests(found, beside)
        elif part.name == "overhead":
            lines += _overhead(found.overhead, beside)
        elif part.name in found.comparisons:
            lines += [page.markdown(found.comparisons[part.name], [pictures[part.name]]).rstrip("\n")]
            lines += [
                f"- figures: [of each arm]({beside}/{part.name}.csv), [of each run]({beside}/{part.name}.runs.csv)",
                "",
            ]
        elif found.states[part.name].turns:
            lines += ["No job of it has finished.", ""]
    return "\n".join([*lines, "## Energy", "", *_energy(found.comparisons)])


def _count(judged: list[Criterion], reached: bool | None, word: str) -> str:
    count = sum(criterion.reached is reached for criterion in judged)
    return f", {count} {word}" if count else ""


def _state(state: State) -> list[str]:
    """Nothing to say of a part that is done."""
    match state.status:
        case "not run":
            return ["Not run.", ""]
        case "cut":
            return [f"Cut after {state.seconds:.0f} s: not all of it was measured.", ""]
        case "failed":
            return [f"Ended with exit code {state.turns[-1].exit_code}: not all of it was measured.", ""]
    return []


def _environment(found: Mapping[str, Any]) -> Iterator[str]:
    """The machine as a list."""
    load, storage = found["load"], found["storage"]
    for name, value in found["machine"].items():
        if name not in ("host", "load_average"):
            yield f"- {name.replace('_', ' ')}: {_told(value)}"
    yield f"- under load, matrix products: {_told({key: round(each, 1) if isinstance(each, float) else each for key, each in load.items() if key not in ('held_down', 'problem')})}"
    if load.get("problem"):
        yield f"- clocks, power: not measured: {load['problem']}"
    elif "held_down" in load:
        yield f"- clock held down by: {_told({name: f'{share} % of the samples' for name, share in load['held_down'].items()}) or 'nothing'}"
    yield f"- storage: {storage['write_mib_per_s']:,.0f} MiB/s written, {storage['read_mib_per_s']:,.0f} MiB/s read back, one file of {storage['size_mib']} MiB"
    yield ""


def _told(value: Any) -> str:
    return (
        ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in value.items())
        if isinstance(value, dict)
        else str(value)
    )


def _tests(found: Found, beside: str) -> Iterator[str]:
    ended = Counter(CALLED.get(test.outcome, test.outcome) for test in found.tests.values())
    if not ended:
        return
    for kind in ("passed", "failed", "skipped"):
        ended.setdefault(kind, 0)
    yield f"`pytest -m gpu`: {', '.join(f'{count} {kind}' for kind, count in ended.items())}; [each by name]({beside}/{kept.FILE})."
    yield ""
    for outcome in ("failed", "begun", "chosen"):
        yield from (f"- {CALLED.get(outcome, outcome)}: `{test.test}`" for test in found.with_tests(outcome))
    for why, count in Counter(test.why for test in found.with_tests("skipped")).most_common():
        yield f"- skipped {count}: {why}"
    yield ""


def _overhead(told: Mapping[str, Any] | None, beside: str) -> list[str]:
    if told is None:
        return []
    named = {
        "metered / bare step": told["ratio"],
        "ceiling / loop by hand": told["ceiling"]["by_hand"],
        "ceiling / DALI's replay evaluator": told["ceiling"]["evaluator"],
    }
    rows = [[name, f"{value:.4f}", f"{low:.4f} to {high:.4f}"] for name, (value, low, high) in named.items()]
    return [
        f"{told['model']}, a step of {told['step_ms']:.3f} ms; [all of it]({beside}/overhead.json).",
        "",
        markdown_table(["ratio", "median", "95 %"], rows),
    ]


def _energy(comparisons: Mapping[str, Comparison]) -> list[str]:
    """Of every arm that measured it: median and range over its runs."""
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
        return ["Not measured: no run has it.", ""]
    return [
        "Of the whole board, by NVML's counter (by its power where the counter stands still), from the first measured step of each epoch to its end.",
        "",
        markdown_table(["part", "arm", "J/sample", "range", "n", "W"], rows),
    ]


def conclude(setting: Setting, asked: Sequence[str], name: str | None, ladder: bool) -> int:
    """Says what is missing; writes the page where there is a GPU.

    Returns:
        0 where every part of ``asked`` is done, no test failed and every picture is drawn.
    """
    found = gather(setting)
    whole = True
    if found.environment is None:
        whole = False
        print(
            f"error: nothing is known of the machine, so there is no page: see {setting.folder}/environment/output.txt",
            file=sys.stderr,
        )
    elif setting.dry:
        _say_dry(found)
    else:
        target, undrawn = write(found, name)
        print(f"written: {target}")
        if ladder:
            print(
                "docs/results.md: "
                + (
                    "its ladder is now this machine's"
                    if publish_ladder(found, target)
                    else "unchanged, because no ladder on vectors has finished"
                )
            )
        for part, why in undrawn.items():
            whole = False
            print(f"{part}: its picture could not be drawn: {why}", file=sys.stderr)
    if undone := [part for part in asked if found.states[part].status != "done"]:
        print(f"not done: {', '.join(undone)}. Type the command again to go on", file=sys.stderr)
    if failed := found.with_tests("failed"):
        print(f"{len(failed)} tests failed: {setting.folder / 'tests' / 'output.txt'}", file=sys.stderr)
    return 0 if whole and not undone and not failed else 1


def _say_dry(found: Found) -> None:
    with tempfile.TemporaryDirectory() as made:  # the same course as with a GPU, and nothing of it is kept
        pictures, undrawn = draw(found, Path(made))
        text = compose(found, pictures, "beside")
    done = sum(state.status == "done" for state in found.states.values())
    print(
        f"dry run on the CPU: {done} of {len(found.states)} parts ran at a small size, and the page of {len(text):,} characters from them was composed, not kept"
    )
    if undrawn:
        print(f"not drawn: {undrawn}", file=sys.stderr)
    print("not measured, since only a GPU can show it:")
    for criterion in criteria({}, None, (), None):
        print(f"  {criterion.what}")
    print(f"no page is written without a GPU; {len(found.with_tests('skipped'))} tests were skipped for want of one")


def write(found: Found, name: str | None) -> tuple[Path, dict[str, str]]:
    """docs/results/<gpu>.md, and beside it a folder with what it was made of: the tests, the figures of every sweep and its
    picture.

    Returns:
        The page, and of each sweep without a picture why.

    Raises:
        UserError: the page of another machine has this name.
    """
    assert found.environment is not None
    machine = found.environment["machine"]
    name = name or re.sub("[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    beside = RESULTS / name
    known = beside / "environment.json"
    if known.exists():
        other = read(known)["machine"]
        if any(other[field] != machine[field] for field in MACHINE):
            raise UserError(
                f"docs/results/{name}.md is of another machine ({other['processor']}, {other['cores_available']} cores). "
                f"Type a name for this one: --name {name}-{machine['cores_available']}-cores"
            )
    beside.mkdir(parents=True, exist_ok=True)
    told = {**found.environment, "machine": {key: value for key, value in machine.items() if key != "host"}}
    known.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if found.overhead is not None:
        (beside / "overhead.json").write_text(json.dumps(found.overhead, indent=1) + "\n", encoding="utf-8")
    lines = [json.dumps({"test": test.test, "outcome": test.outcome, "why": test.why}) for test in found.tests.values()]
    (beside / kept.FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    pictures, undrawn = draw(found, beside)
    target = RESULTS / f"{name}.md"
    target.write_text(compose(found, pictures, name), encoding="utf-8")
    return target, undrawn


def draw(found: Found, beside: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Each sweep's picture and figures into a folder.

    Returns:
        Of each sweep, in Markdown, its picture or why there is none; and of those without one why: the page of hours of
        measuring is not lost for the sake of a picture.
    """
    pictures, undrawn = {}, {}
    for part, comparison in found.comparisons.items():
        try:
            with tempfile.TemporaryDirectory() as made:
                compare_runs.save(comparison, found.stores[part], Path(made))
                for file, suffix in (
                    (compare_runs.PICTURE, "png"),
                    ("comparison.csv", "csv"),
                    ("runs.csv", "runs.csv"),
                ):
                    shutil.copy(Path(made) / file, beside / f"{part}.{suffix}")
            pictures[part] = f"![{part}]({beside.name}/{part}.png)"
        except Exception as error:
            undrawn[part] = described(error)
            pictures[part] = f"Its picture could not be drawn: {undrawn[part]}"
    return pictures, undrawn


def publish_ladder(found: Found, target: Path) -> bool:
    """Replaces the ladder of docs/results.md by that of a machine's page.

    Returns:
        False if the machine has no such ladder.
    """
    if LADDER_VECTORS not in found.comparisons:
        return False
    comparison = found.comparisons[LADDER_VECTORS]
    where = os.path.relpath(target.with_suffix(""), LADDER_PAGE.parent)
    told = page.facts(comparison)
    lines = [markdown_table(*arm_table(comparison, group)) for group in comparison.groups]
    lines += [f"![each rung's training loop, and how much of it waits for data]({where}/{LADDER_VECTORS}.png)", ""]
    lines += [
        f"`python -m experiments.train study=ladder`, {told.get('device', 'several devices')}: {told.get('work', '')}; {told['runs']}. "
        f"[All results]({where}.md). The published study is not known in full: compare the ratios, not the seconds."
    ]
    text = LADDER_PAGE.read_text(encoding="utf-8")
    before, opened, rest = text.partition(LADDER_PLACE[0])
    _, closed, after = rest.partition(LADDER_PLACE[1])
    assert opened, f"docs/results.md has no {LADDER_PLACE[0]}"
    assert closed, f"docs/results.md has no {LADDER_PLACE[1]}"
    # the empty line: a table that follows a comment at once is none for MkDocs
    LADDER_PAGE.write_text("\n".join([before + opened, "", *lines, "", closed + after]), encoding="utf-8")
    return True
