"""RunRecord runs from the store to a table, pictures and a page."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loaderlab import metrics
from loaderlab.compare.arms import Comparison, short
from loaderlab.compare.comparison import compare
from loaderlab.compare.stats import LEAST_PAIRS
from loaderlab.config import AUTO, METRICS, PROJECT, CompareConfig, Failed, UserError, refuse
from loaderlab.report import page, sentences
from loaderlab.report.arm_table import arm_table
from loaderlab.runs import sweep_jobs
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store, ui_view
from loaderlab.tracking.records import Missing, RunRecord
from loaderlab.tracking.store import Store, TrackedRun

FOLDER = "comparison"  # of the parent run's artifacts
PICTURE = "comparison.png"


def run(config: CompareConfig, terminal: Terminal) -> None:
    """What ``python -m experiments.compare`` does.

    Raises:
        UserError: no such run, nothing to compare, a baseline that is not there.
        Failed: the gate ``fail_if`` says so.
    """
    store = open_store(config.tracking, PROJECT, create=False)
    output = None if config.output is None else _folder(config.output)
    comparison = gather(store, config)
    say(comparison, terminal)
    if output is not None:
        write(comparison, store, output)
        terminal.say(f"written: {output / 'report.html'}, comparison.csv, .json, .md, runs.csv and the pictures")
    if config.fail_if.rate_below is not None:
        gate(comparison, config.fail_if.rate_below, terminal)


def gather(store: Store, config: CompareConfig) -> Comparison:
    """The comparison that the settings ask for."""
    options: dict[str, Any] = {"baseline": config.baseline_settings}
    if config.filter is not None or config.runs == "all":
        runs = [entry for entry in store.runs(config.filter or "") if entry.tags.get("sweep") != "parent"]
        where = f"filter={config.filter}" if config.filter is not None else "all runs"
        title, missing = f"{where} of {config.tracking.experiment}", list[Missing]()
    else:
        parent = sweep_of(store, config.runs)
        runs, missing = _of_sweep(store, parent)
        title = parent.name
    if config.baseline_sweep is not None:
        base = sweep_of(store, config.baseline_sweep)
        if {run.parent_id for run in runs} == {base.run_id}:
            raise refuse(
                "baseline",
                config.baseline_sweep,
                "is the sweep itself",
                "runs=latest baseline=the run id of an earlier one",
            )
        others, _ = _of_sweep(store, base)
        labels = (f"{base.run_id[:8]}", "now")
        runs = [*(_marked(entry, labels[0]) for entry in others), *(_marked(entry, labels[1]) for entry in runs)]
        options["baseline"] = {"sweep": labels[0]}
        title += f", held against {base.name} ({base.run_id[:8]})"
    metric = _natural_metric(runs) if config.metric == AUTO else config.metric
    return compare(title, runs, missing, metric=metric, **options)


def of_sweep(store: Store, parent_id: str) -> Comparison:
    """What a sweep has come to so far.

    Raises:
        UserError: none of its jobs has finished.
    """
    parent = store.run(parent_id)
    assert parent is not None
    runs, missing = _of_sweep(store, parent)
    return compare(parent.name, runs, missing, metric=_natural_metric(runs))


def _natural_metric(runs: Sequence[RunRecord]) -> str:
    """Of a ladder the seconds, since it was published in them; else the rate."""
    rungs = [entry.settings.get("rung", "null") != "null" for entry in runs if entry.status == "FINISHED"]
    return metrics.TRAIN_S if rungs and all(rungs) else METRICS[0]


def sweep_of(store: Store, chosen: str) -> RunRecord:
    """The parent run that ``latest`` or a run id names."""
    if chosen == "latest":
        newest = store.newest_sweep()
        if newest is None:
            raise refuse(
                "runs",
                "latest",
                f"there is no sweep in {store.uri} yet",
                "python -m experiments.train -m repeat=1,2,3 loader=native,dali",
            )
        return newest
    found = store.run(chosen)
    if found is None or found.tags.get("sweep") != "parent":
        what = "there is no such run" if found is None else f"is {found.name}, a single run and no sweep"
        parent = f"runs={found.parent_id}" if found is not None and found.parent_id else "runs=latest"
        known = store.sweeps()[-3:]
        listed = "; the newest are " + ", ".join(f"{entry.run_id} ({entry.name})" for entry in known) if known else ""
        raise refuse("runs", chosen, f"{what}{listed}", parent)
    return found


def _of_sweep(store: Store, parent: RunRecord) -> tuple[list[RunRecord], list[Missing]]:
    """Its runs in the order of the plan, and the jobs that have none."""
    runs = store.runs(f"tags.`mlflow.parentRunId` = '{parent.run_id}'")
    text = store.read(parent.run_id, sweep_jobs.FILE)
    if text is None:  # recorded before there were plans
        return runs, []
    planned = sweep_jobs.from_json(text)
    # arms in the order of the plan, whichever of their jobs has failed
    arms = {arm: index for index, arm in enumerate(dict.fromkeys(job.arm for job in planned))}
    place = {job.hash: arms[job.arm] for job in planned}
    runs.sort(key=lambda entry: (place.get(entry.tags.get("config.hash", ""), len(arms)), entry.started_ms))
    return runs, sweep_jobs.unreached(planned, runs)


def _marked(entry: RunRecord, label: str) -> RunRecord:
    """With the sweep that it belongs to as if it were a setting: what differs between the two."""
    return RunRecord(**{**entry.__dict__, "settings": {**entry.settings, "sweep": label}})


# ---- showing ---------------------------------------------------------------------------------------------------


def say(comparison: Comparison, terminal: Terminal) -> None:
    """On the terminal: the answer, the tables, what to know before believing them."""
    terminal.say()
    for line in sentences.headline(comparison):
        terminal.say(line)
    tables(comparison, terminal)
    for line in sentences.remarks(comparison):
        terminal.say(f"note: {line}")
    for entry in comparison.missing:
        terminal.say(f"not measured: {entry.name}: {entry.why}")


def tables(comparison: Comparison, terminal: Terminal) -> None:
    for group in comparison.groups:
        work = ", ".join(f"{short(name)} {value}" for name, value in group.work.items())
        terminal.table(work or comparison.title, *arm_table(comparison, group))


def write(comparison: Comparison, store: Store, folder: Path) -> None:
    """report.html, comparison.csv, .json, .md, runs.csv and a PNG of each picture."""
    from loaderlab.report import charts, step_charts  # a second of imports

    @functools.cache
    def steps(run_id: str) -> step_charts.Series | None:
        text = store.read(run_id, "steps.csv")
        return None if text is None else step_charts.read_steps(text)

    drawn = charts.draw(comparison, steps, folder, PICTURE)
    (folder / "report.html").write_text(page.html(comparison, drawn), encoding="utf-8")
    (folder / "comparison.md").write_text(
        f"# {comparison.title.replace('<', '&lt;')}\n\n" + page.markdown(comparison, [f"![the comparison]({PICTURE})"]),
        encoding="utf-8",
    )
    (folder / "comparison.csv").write_text(page.as_csv(comparison), encoding="utf-8")
    (folder / "runs.csv").write_text(page.runs_as_csv(comparison), encoding="utf-8")
    (folder / "comparison.json").write_text(page.as_json(comparison), encoding="utf-8")


def record(comparison: Comparison, store: Store, parent: TrackedRun, *, pictures: bool = True) -> None:
    """All of it with the sweep's parent run, the picture on its page; without ``pictures`` only the words and the table."""
    links = []
    if pictures:
        with tempfile.TemporaryDirectory(prefix="loaderlab-") as made:
            write(comparison, store, Path(made))
            parent.artifacts(Path(made), FOLDER)
        links.append(f"![the comparison](get-artifact?path={FOLDER}/{PICTURE}&run_uuid={parent.run_id})")
    beside = f"[These runs side by side]({ui_view.link(store.experiment_id)}), grouped by arm, with their charts."
    note = page.markdown(comparison, [*links, beside])
    parent.tags({"mlflow.note.content": note, "headline": " ".join(sentences.headline(comparison))})


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").touch()
    except OSError as error:
        raise refuse("output", name, f"cannot be written: {error.strerror}", "output=report") from None
    return folder


def gate(comparison: Comparison, limit: float, terminal: Terminal) -> None:
    """Passes, or raises.

    Raises:
        UserError: an arm has too few rounds to be judged: a gate that cannot see must not say yes.
        Failed: an arm's whole interval lies below the limit.
    """
    arms = [arm for arm in comparison.arms if not arm.is_ceiling]
    compared = [arm for arm in arms if not arm.is_baseline]
    if not any(arm.partner is not None for arm in compared):
        raise refuse("fail_if.rate_below", limit, "no arm has a baseline to be held against", "baseline=loader:native")
    alone = [arm.label for arm in compared if arm.partner is None]
    alone += [arm.label for arm in arms if arm.is_baseline and not any(other.partner is arm for other in compared)]
    lost = [f"{entry.name}: {entry.why}" for entry in comparison.missing if not entry.not_applicable]
    for what, names in (("nothing to be held against for", alone), ("not measured", lost)):
        if names:
            raise UserError(f"fail_if.rate_below={limit:g}: {what}: {_listed(names)}. Not all can be judged")
    blind = [arm.label for arm in compared if arm.gain is None or arm.gain.high is None]
    if blind:
        raise UserError(
            f"fail_if.rate_below={limit:g}: fewer than {LEAST_PAIRS} rounds in common with the baseline: {_listed(blind)}. "
            "Nothing can be judged. Type in the sweep: repeat=1,2,3"
        )
    below = [arm for arm in compared if arm.gain is not None and arm.gain.high is not None and arm.gain.high < limit]
    if below:
        told = [f"{arm.label} at {sentences.times(arm.gain)} {arm.partner.label}" for arm in below if arm.partner]
        raise Failed(f"fail_if.rate_below={limit:g}: the whole interval lies below it: {_listed(told)}")
    terminal.say(f"fail_if.rate_below={limit:g}: passed by {len(compared)} arm{'s' * (len(compared) > 1)}")


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:5]) + (f"; and {len(names) - 5} more" if len(names) > 5 else "")
