"""The last stage of a run: its record in MLflow, its files, and its result on the terminal."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from loaderlab.device.base import Device
from loaderlab.device.environment import describe
from loaderlab.diagnosis.evidence import LEAST_STEPS
from loaderlab.lines import words
from loaderlab.lines.control import Profiled
from loaderlab.meter.step import Step
from loaderlab.report import run_page
from loaderlab.report.line_files import write_lines
from loaderlab.report.line_table import lines_section, short_section
from loaderlab.report.naming import named
from loaderlab.report.rank_table import rank_table, ranks_section
from loaderlab.report.step_files import to_csv, write_steps
from loaderlab.runs.context import RunContext
from loaderlab.runs.judge import Judged
from loaderlab.runs.next_run import next_command
from loaderlab.runs.prepare import Prepared
from loaderlab.runs.rank_files import write_job
from loaderlab.runs.sample_counts import data_fact, samples_text
from loaderlab.system import program
from loaderlab.system.files import write_text
from loaderlab.system.processes import Terminated, error_line
from loaderlab.tracking.records import NOT_FINITE

GPU_METRICS = "machine/gpu_"  # the start of their names


@dataclass(frozen=True)
class Outcome:
    """The end of a run, as `record` needs it.

    Attributes:
        device: where the run trained, or would have trained.
        prepared, judged: None if the run ended before that stage.
        step: the number of finished steps.
        untimed: the last of them, whose times on the device are lost.
        skipped: the reason for each skipped sample.
        error: the error that ended the run; None if it finished.
    """

    device: Device
    prepared: Prepared | None
    judged: Judged | None
    step: int
    untimed: Sequence[Step]
    skipped: Sequence[str]
    error: BaseException | None


def record(context: RunContext, outcome: Outcome) -> None:
    """Records the run's metrics, tags and artifacts, even if it failed, and prints its result."""
    judged, error, tracked = outcome.judged, outcome.error, context.tracked
    if judged is not None:
        tracked.tags(judged.verdict.tags())
        if judged.job is not None:
            tracked.tags(judged.job.ranks.tags())
        if judged.not_finite:
            tracked.tags({NOT_FINITE: ", ".join(judged.not_finite)})
        for name, value in judged.figures.items():
            tracked.metric(name, value, outcome.step)
    emulated = outcome.device.capabilities.emulated
    for name, value in context.job.machine.items():  # last, since MLflow's UI offers the first metric first
        if not (emulated and name.startswith(GPU_METRICS)):  # it uses no GPU
            tracked.metric(name, value, 0)
    if error is not None:
        tracked.tags({"error": error_line(error)})
    elif not context.config.checkpoint.keep:
        context.checkpoint_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            context.checkpoint_path.parent.rmdir()
    if judged is not None:
        if error is None:
            _print_result(context, judged)
        else:
            _print_known(context, judged, outcome.step, error)
    facts: dict[str, str] = {}
    if (prepared := outcome.prepared) is not None:
        facts = {**prepared.facts, "data": data_fact(prepared.spec, prepared.parts)}
        tracked.tags({"data.samples": samples_text(prepared.spec, prepared.parts)})
    figures, verdict = (judged.figures, judged.verdict) if judged is not None else ({}, None)
    sections = lines_part = short_part = ""
    if judged is not None and judged.job is not None:
        sections = ranks_section(judged.job.ranks, judged.job.windows)
    if judged is not None and judged.lines is not None:
        lines_part, short_part = lines_section(judged.lines), short_section(judged.lines)
    if error is not None:
        facts = {
            "ended early": f"after {outcome.step:,} steps; the metrics and the verdict are those until then",
            **facts,
        }
    page = run_page.markdown(context.job.name, facts, figures, verdict, sections)
    _write(context, outcome, page + lines_part)
    tracked.artifacts(context.folder)
    tracked.tags({"mlflow.note.content": page + short_part})


def _print_result(context: RunContext, judged: Judged) -> None:
    _print_tables(context, judged)
    context.terminal.say(str(judged.verdict))
    command = next_command(program.command("train"), context.job.overrides, judged.verdict.advice)
    if command and context.job.parent_id is None:
        context.terminal.say(f"next: {command}")


def _print_tables(context: RunContext, judged: Judged) -> None:
    """A sweep prints one table for all its jobs instead."""
    if context.job.parent_id is not None:
        return
    if rows := run_page.figure_rows(judged.figures):
        context.terminal.table(context.job.name, ("", "measured"), rows)
    if judged.job is not None:
        context.terminal.table("by rank", *rank_table(judged.job.windows))
    if judged.lines is not None:
        for title, parts in (("stages of the loader", judged.lines.stages), ("its lines", judged.lines.lines)):
            context.terminal.table(title, words.COLUMNS, words.rows(judged.lines, parts))
        context.terminal.say(f"profiled: {words.facts(judged.lines)}")


def _print_known(context: RunContext, judged: Judged, num_steps: int, error: BaseException) -> None:
    """Prints what is known of a run that ended early. Without tables and advice, in which the error that follows would get lost; only
    who interrupted the run wants to see the tables."""
    if isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated):  # nobody reads it after SIGTERM
        _print_tables(context, judged)
    known = f"; until then {judged.verdict.sentence}" if len(judged.loop.window) >= LEAST_STEPS else ""
    context.terminal.say(f"the run ended early, after {num_steps:,} steps{known}")


def _write(context: RunContext, outcome: Outcome, page: str) -> None:
    """Writes the files that become the run's artifacts."""
    folder, settings = context.folder, dict(context.config.recorded())
    emulated = outcome.device.capabilities.emulated
    write_text(folder / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    write_text(folder / "overrides.yaml", yaml.safe_dump(list(context.job.overrides)))
    write_text(folder / "environment.json", json.dumps(describe(outcome.device), indent=1) + "\n")
    if outcome.skipped:
        write_text(folder / "broken.txt", "\n".join(outcome.skipped) + "\n")
    if outcome.error is not None:
        write_text(folder / "traceback.txt", "".join(traceback.format_exception(outcome.error)))
    if (judged := outcome.judged) is not None:
        title = f"{context.job.name}: {judged.verdict.grade}"
        if judged.job is None:
            write_steps(folder, title, judged.loop, judged.figures, outcome.untimed, emulated=emulated)
        else:
            write_job(folder, title, judged.job, emulated=emulated)
        write_text(folder / named("report.md", emulated=emulated), page)
        if (profiled := judged.loop.profiled) is not None:
            slow = Profiled(judged.lines, profiled.recording, profiled.problem(judged.lines))
            title = f"{context.job.name}: the loader's time by line"
            tags = write_lines(folder, slow, title, lambda file: named(file, emulated=emulated))
            context.tracked.tags({"slow_line": slow.sentence} | tags)
    elif outcome.untimed:
        text = to_csv((), 0, untimed=outcome.untimed, emulated=emulated)
        write_text(folder / named("steps.csv", emulated=emulated), text)
    write_text(folder / "log.txt", "\n".join(context.terminal.said) + "\n")
