"""``loaderlab compare``: compares recorded runs on the terminal and as files, and judges the gates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loaderlab.compare.arms import Comparison
from loaderlab.config import CompareConfig, refuse, store_root
from loaderlab.report import comparison_files
from loaderlab.report.comparison_files import PAGE, written
from loaderlab.report.naming import named
from loaderlab.report.on_terminal import show
from loaderlab.runs import rate_gate, utilization_gate
from loaderlab.runs.chosen_runs import comparisons_of
from loaderlab.system.program import command
from loaderlab.system.terminal import Terminal
from loaderlab.system.user import expanded
from loaderlab.tracking import open_store
from loaderlab.tracking.store import Store

FINISHED = """'filter="attributes.status = \\"FINISHED\\""'"""  # as typed in a shell


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
            comparison_files.save(comparison, store, output)
            terminal.say(written(comparison, output))
    remedy = _remedy(config, store)
    if config.fail_if.rate_below is not None:
        for comparison in comparisons:
            rate_gate.check_comparison(comparison, config.fail_if.rate_below, terminal, remedy)
    if config.fail_if.utilization_below is not None:
        for comparison in comparisons:
            utilization_gate.check_comparison(comparison, config.fail_if.utilization_below, terminal, remedy)


def _remedy(config: CompareConfig, store: Store) -> str:
    """What to type if an arm has no finished run, which a gate cannot judge."""
    if config.filter is not None:
        return "To leave them out, add to the filter: and attributes.status = 'FINISHED'"
    if config.runs == "all":
        return f"To leave them out, type instead of runs=all: {FINISHED}"
    return f"To run them again: {command('train')} -m resume={config.runs}{store.typed}"


def _output_folder(name: str, comparisons: Sequence[Comparison]) -> Path:
    folder = expanded(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for comparison in comparisons:
            (folder / named(PAGE, emulated=comparison.is_emulated)).touch()
    except OSError as error:
        raise refuse("output", name, f"cannot be written: {error.strerror}", "output=report") from None
    return folder
