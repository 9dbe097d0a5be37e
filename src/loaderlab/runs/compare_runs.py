"""From runs in the store to a comparison on the terminal, as files, and with a sweep's parent run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loaderlab.compare.arms import Comparison
from loaderlab.compare.gate import judge_gate
from loaderlab.compare.kinds import REAL, check_sweep, compare_kinds
from loaderlab.compare.stats import LEAST_PAIRS
from loaderlab.config import AUTO, EMULATED, CompareConfig, GateFailed, GateNotJudged, refuse, store_root
from loaderlab.report import page, sentences
from loaderlab.report.arm_table import arm_table, group_title
from loaderlab.report.naming import named
from loaderlab.runs import sweep_jobs, utilization_gate
from loaderlab.system.files import write_text
from loaderlab.system.program import command
from loaderlab.system.terminal import Terminal
from loaderlab.system.user import expanded
from loaderlab.tracking import open_store, ui_view
from loaderlab.tracking.records import Missing, RunRecord
from loaderlab.tracking.store import Store
from loaderlab.tracking.tracked_run import TrackedRun

FOLDER = "comparison"  # of the parent run's artifacts
PICTURE = "comparison.png"


def run_compare(config: CompareConfig, terminal: Terminal) -> None:
    """Runs ``loaderlab compare``.

    Raises:
        UserError: there is no such run, nothing to compare, or no such baseline.
        Failed: the gate ``fail_if`` is not passed.
    """
    store = open_store(config.tracking, store_root(), create=False)
    comparisons = comparisons_of(store, config)
    output = None if config.output is None else _output_folder(config.output, comparisons)
    for comparison in comparisons:
        show(comparison, terminal)
        if output is not None:
            save(comparison, store, output)
            terminal.say(_written(comparison, output))
    if config.fail_if.rate_below is not None:
        for comparison in comparisons:
            check_gate(comparison, config.fail_if.rate_below, terminal)
    if config.fail_if.utilization_below is not None:
        for comparison in comparisons:
            utilization_gate.check_comparison(comparison, config.fail_if.utilization_below, terminal)


def comparisons_of(store: Store, config: CompareConfig) -> list[Comparison]:
    """The comparison that the settings request; two if the runs are real and emulated, the emulated one last."""
    options: dict[str, Any] = {"baseline": config.baseline_settings}
    if config.filter is not None or config.runs == "all":
        runs = [entry for entry in store.runs(config.filter or "") if entry.tags.get("sweep") != "parent"]
        where = f"filter={config.filter}" if config.filter is not None else "all runs"
        title, missing = f"{where} of {config.tracking.experiment}", list[Missing]()
    else:
        parent = chosen_sweep(store, config.runs)
        runs, missing = _runs_of_sweep(store, parent)
        title = parent.name
    if config.baseline_sweep is not None:
        base = chosen_sweep(store, config.baseline_sweep)
        if {run.parent_id for run in runs} == {base.run_id}:
            raise refuse(
                "baseline",
                config.baseline_sweep,
                "is the sweep itself",
                "runs=latest baseline=the run id of an earlier one",
            )
        others, _ = _runs_of_sweep(store, base)
        check_sweep(config.baseline_sweep, base.name, runs, others)
        kinds = {run.is_emulated for run in runs}
        others = [run for run in others if run.is_emulated in kinds]
        labels = (f"{base.run_id[:8]}", "now")
        runs = [*(_marked(entry, labels[0]) for entry in others), *(_marked(entry, labels[1]) for entry in runs)]
        options["baseline"] = {"sweep": labels[0]}
        title += f", compared with {base.name} ({base.run_id[:8]})"
    metric = None if config.metric == AUTO else config.metric
    return compare_kinds(title, runs, missing, metric=metric, **options)


def comparisons_of_sweep(store: Store, parent_id: str) -> list[Comparison]:
    """The comparison of a sweep's jobs that have finished so far; two if some are real and some emulated.

    Raises:
        UserError: none of its jobs has finished.
    """
    parent = store.run(parent_id)
    assert parent is not None
    runs, missing = _runs_of_sweep(store, parent)
    return compare_kinds(parent.name, runs, missing)


def chosen_sweep(store: Store, chosen: str) -> RunRecord:
    """The parent run that ``latest`` or a run id selects.

    Raises:
        UserError: there is no such run, or it is a single run.
    """
    if chosen == "latest":
        newest = store.newest_sweep()
        if newest is None:
            raise refuse(
                "runs",
                "latest",
                f"there is no sweep in {store.uri} yet",
                f"{command('train')} -m repeat=1,2,3 loader=native,dali",
            )
        return newest
    run = store.run(chosen)
    if run is None or run.tags.get("sweep") != "parent":
        problem = "there is no such run" if run is None else f"is {run.name}, a single run and not a sweep"
        parent = f"runs={run.parent_id}" if run is not None and run.parent_id else "runs=latest"
        known = store.sweeps()[-3:]
        newest_sweeps = ", ".join(f"{entry.run_id} ({entry.name})" for entry in known)
        listed = f"; the newest sweeps are {newest_sweeps}" if known else ""
        raise refuse("runs", chosen, f"{problem}{listed}", parent)
    return run


def _runs_of_sweep(store: Store, parent: RunRecord) -> tuple[list[RunRecord], list[Missing]]:
    """The sweep's runs in the order of the plan, and the jobs without a run."""
    runs = store.runs(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    text = store.read(parent.run_id, sweep_jobs.FILE)
    if text is None:  # an old record without a plan
        return runs, []
    planned = sweep_jobs.from_json(text)
    # the arms keep the order of the plan even if some of their jobs failed
    arms = {arm: index for index, arm in enumerate(dict.fromkeys(job.arm for job in planned))}
    place = {job.hash: arms[job.arm] for job in planned}
    runs.sort(key=lambda entry: (place.get(entry.tags.get("config.hash", ""), len(arms)), entry.started_ms))
    return runs, sweep_jobs.unreached(planned, runs)


def _marked(entry: RunRecord, label: str) -> RunRecord:
    """The run with its sweep added as a setting, so that the two sweeps become different arms."""
    return replace(entry, settings={**entry.settings, "sweep": label})


# ---- showing ---------------------------------------------------------------------------------------------------


def show(comparison: Comparison, terminal: Terminal) -> None:
    """Prints the headline, the tables and the caveats on the terminal."""
    terminal.say()
    if _needs_title(comparison):
        terminal.say(comparison.title)
    for line in sentences.headline(comparison):
        terminal.say(line)
    show_tables(comparison, terminal)
    for line in sentences.remarks(comparison):
        terminal.say(f"note: {line}")
    for entry in comparison.missing:
        terminal.say(f"not measured: {entry.name}: {entry.why}")


def show_tables(comparison: Comparison, terminal: Terminal) -> None:
    """Prints the table of each group's arms on the terminal."""
    for group in comparison.groups:
        terminal.table(group_title(comparison, group) or comparison.title, *arm_table(comparison, group))


def _needs_title(comparison: Comparison) -> bool:
    """Whether the text of a comparison starts with its title: the texts of two kinds of runs follow each other."""
    return comparison.is_emulated or comparison.title.startswith(REAL)


def save(comparison: Comparison, store: Store, folder: Path) -> None:
    """Writes report.html, comparison.csv, .json, .md, runs.csv and a PNG of each picture, with ``emulated`` in the names if the
    runs are emulated."""
    from loaderlab.report import charts, step_charts  # these imports take a second

    emulated = comparison.is_emulated

    @functools.cache
    def steps(run_id: str) -> step_charts.Series | None:
        text = store.read(run_id, named("steps.csv", emulated=emulated))
        return None if text is None else step_charts.read_steps(text)

    def write(name: str, text: str) -> None:
        write_text(folder / named(name, emulated=emulated), text)

    picture = named(PICTURE, emulated=emulated)
    drawn = charts.draw(comparison, steps, folder, picture)
    links = [f"![{_alt(comparison)}]({picture})"] if drawn else []
    write("report.html", page.html(comparison, drawn))
    write("comparison.md", page.titled_markdown(comparison, links))
    write("comparison.csv", page.as_csv(comparison))
    write("runs.csv", page.runs_as_csv(comparison))
    write("comparison.json", page.as_json(comparison))


def _alt(comparison: Comparison) -> str:
    """The text in place of a picture that cannot be shown."""
    return f"the comparison, {comparison.mark}" if comparison.is_emulated else "the comparison"


def _written(comparison: Comparison, folder: Path) -> str:
    """The line on the written files."""
    page_name, table, runs = (
        named(name, emulated=comparison.is_emulated) for name in ("report.html", "comparison.csv", "runs.csv")
    )
    return f"written: {folder / page_name}, {table}, .json, .md, {runs} and the pictures"


def attach_to_sweep(
    comparisons: Sequence[Comparison], store: Store, parent: TrackedRun, *, pictures: bool = True
) -> None:
    """Saves the comparisons with the sweep's parent run and shows them on the run's page; without ``pictures``, only text."""
    if pictures:
        with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
            for comparison in comparisons:
                save(comparison, store, Path(folder))
            parent.artifacts(Path(folder), FOLDER)
    view = f"[These runs side by side]({ui_view.charts_link(store.experiment_id)}), grouped by arm, with their charts."
    notes = []
    for comparison in comparisons:
        picture = f"{FOLDER}/{named(PICTURE, emulated=comparison.is_emulated)}"
        links = [f"![{_alt(comparison)}](get-artifact?path={picture}&run_uuid={parent.run_id})"]
        links = [*links * (pictures and bool(comparison.groups)), view]
        text = page.titled_markdown if _needs_title(comparison) else page.markdown
        notes.append(text(comparison, links))
        tag = f"headline.{EMULATED}" if comparison.is_emulated else "headline"
        parent.tags({tag: " ".join(sentences.headline(comparison))})
    parent.tags({"mlflow.note.content": "\n".join(notes)})


def _output_folder(name: str, comparisons: Sequence[Comparison]) -> Path:
    folder = expanded(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for comparison in comparisons:
            (folder / named("report.html", emulated=comparison.is_emulated)).touch()
    except OSError as error:
        raise refuse("output", name, f"cannot be written: {error.strerror}", "output=report") from None
    return folder


def check_gate(comparison: Comparison, limit: float, terminal: Terminal) -> None:
    """Prints that the gate is passed, or raises.

    Raises:
        GateNotJudged: an arm cannot be judged, so the gate is not passed.
        GateFailed: an arm's whole interval is below the limit.
    """
    gate = judge_gate(comparison, limit)
    if not gate.has_baseline:
        raise refuse(
            "fail_if.rate_below",
            limit,
            "no arm has a baseline to be compared with",
            "baseline=loader:native",
            error=GateNotJudged,
        )
    unpaired = [arm.label for arm in gate.unpaired]
    for problem, names in (("no baseline run for", unpaired), ("not measured:", gate.unmeasured)):
        if names:
            raise GateNotJudged(
                f"fail_if.rate_below={limit:g}: {problem} {utilization_gate.listed(names)}, so the gate cannot pass"
            )
    if gate.unclear:
        unclear = utilization_gate.listed([arm.label for arm in gate.unclear])
        raise refuse(
            "fail_if.rate_below",
            f"{limit:g}",
            f"fewer than {LEAST_PAIRS} repeats in common with the baseline: {unclear}. The gate cannot pass",
            "repeat=1,2,3 in the sweep",
            error=GateNotJudged,
        )
    if gate.below:
        gains = [
            f"{arm.label} is {sentences.compared(arm.gain, arm, arm.partner.label)}"
            for arm in gate.below
            if arm.partner
        ]
        raise GateFailed(
            f"fail_if.rate_below={limit:g}: the whole interval is below it: {utilization_gate.listed(gains)}"
        )
    count = len(gate.compared)
    terminal.say(f"fail_if.rate_below={limit:g}: passed by {count} arm{'s' * (count > 1)}")
