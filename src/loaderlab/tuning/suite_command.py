"""`loaderlab tune` with the settings of a run: tunes, records and prints the answer."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from loaderlab.config import TunedTrainConfig, refuse_typed, refuse_untunable, store_root
from loaderlab.runs.job import single
from loaderlab.system import machine
from loaderlab.system.program import command
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tuning import chart_places, on_terminal, page, typed
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.progress import Progress
from loaderlab.tuning.suite import SuiteEngine
from loaderlab.tuning.suite_record import SuiteRecord, recording, save_settings
from loaderlab.tuning.suite_settings import overrides_of
from loaderlab.tuning.this_machine import this_machine
from loaderlab.tuning.tuner import tune


def tune_run(config: TunedTrainConfig, overrides: list[str], terminal: Terminal) -> None:
    """Tunes the loader of a run.

    Args:
        overrides: as typed.

    Raises:
        UserError: the run cannot be tuned; nothing is recorded if that is known before the first trial.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was known by then is recorded and printed.
    """
    refuse_typed(config, overrides)
    refuse_untunable(config)
    run = config.run
    engine = SuiteEngine(run, config.tune, overrides, terminal)
    try:
        engine.facts()
        for text in machine.warnings(machine.state()):
            terminal.warn(text)
        store = open_store(config.tracking, store_root())
        limits = partial(this_machine, max_makers=config.tune.max_makers, memory_mib=config.tune.memory_mib)
        with recording(config, store) as record:
            engine.record_under(record.for_trials)
            answer = tune(
                engine,
                limits,
                Progress(terminal),
                minutes=config.tune.minutes,
                limit_pct=config.tune.max_starved_pct,
            )
            _report(config, answer, record, terminal)
            if answer.interrupted:
                raise engine.interrupt or KeyboardInterrupt
    finally:
        engine.close()


def _report(config: TunedTrainConfig, answer: Answer, record: SuiteRecord, terminal: Terminal) -> None:
    """Records the answer and prints it; what to type comes last."""
    current = answer.facts.current

    def override(candidate: Candidate) -> str:
        return " ".join(overrides_of(candidate, current, config.loader))

    code = partial(typed.snippet, batch_size=config.batch_size)
    title = f"tune {single(config.run, []).name}"
    with tempfile.TemporaryDirectory(prefix="loaderlab-") as folder:
        picture = Path(folder) / "chart.png"
        if chart_places.is_drawn(answer):
            from loaderlab.tuning import chart  # it imports matplotlib

            chart.draw(answer, picture)
        png = picture.read_bytes() if picture.exists() else b""
    record.answered(answer, page.html(answer, title, override, code), png)
    terminal.say(record.ui_text)
    if (path := save_settings(answer, config, store_root())) is not None:
        terminal.say(f"saved: {path}. To use it: {command('train')} … +tuned={config.tune.name}")
    on_terminal.show(answer, terminal, override, code)
