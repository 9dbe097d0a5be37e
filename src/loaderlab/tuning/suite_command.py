"""`loaderlab tune` with the settings of a run: tunes, records and prints the answer."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from loaderlab.config import TunedTrainConfig, UserError, refuse_typed, refuse_untunable, store_root
from loaderlab.runs.job import single
from loaderlab.system import machine
from loaderlab.system.causes import reason
from loaderlab.system.processes import Terminated
from loaderlab.system.program import command
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from loaderlab.tuning import on_terminal, page, typed
from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.picture import png_of
from loaderlab.tuning.progress import Progress
from loaderlab.tuning.suite import SuiteEngine
from loaderlab.tuning.suite_record import SuiteRecord, recording, save_settings
from loaderlab.tuning.suite_settings import overrides_of
from loaderlab.tuning.this_machine import this_machine
from loaderlab.tuning.tuner import tune
from loaderlab.tuning.words import Text


def tune_run(config: TunedTrainConfig, overrides: list[str], terminal: Terminal) -> None:
    """Tunes the loader of a run.

    Args:
        overrides: as typed.

    Raises:
        UserError: the run cannot be tuned; nothing is recorded if that is known before the first trial.
        KeyboardInterrupt: Ctrl-C; what was known by then is recorded and printed. Terminated, a subclass: SIGTERM.
    """
    refuse_typed(config, overrides)
    refuse_untunable(config, overrides)
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
                raise Terminated if record.received else KeyboardInterrupt
    finally:
        engine.close()


def _report(config: TunedTrainConfig, answer: Answer, record: SuiteRecord, terminal: Terminal) -> None:
    """Records the answer, saves its settings, and prints it; what to type comes last. An error in one of them skips none of the others.

    Raises:
        UserError: the answer could not be recorded or saved.
    """
    current = answer.facts.current

    def override(candidate: Candidate) -> str:
        return " ".join(overrides_of(candidate, current, config.loader))

    code = partial(typed.snippet, batch_size=config.batch_size)
    with ExitStack() as later:  # the last one runs first, and each one runs even if the others fail
        later.callback(on_terminal.show, answer, terminal, override, code)
        later.callback(_save, config, answer, override, terminal)
        title = f"tune {single(config.run, []).name}"
        try:
            record.answered(answer, page.html(answer, title, override, code), png_of(answer))
        except OSError as error:  # of its files; the store raises UserError
            raise UserError(f"the answer cannot be recorded: {reason(error)}") from error
        terminal.say(record.ui_text)


def _save(config: TunedTrainConfig, answer: Answer, override: Text, terminal: Terminal) -> None:
    """Saves the chosen settings if they are confirmed; otherwise says what to type instead."""
    path = save_settings(answer, config, store_root())
    if path is not None:
        terminal.say(f"saved: {path}. To use it: {command('train')} … +tuned={config.tune.name}")
    elif answer.chosen is not None:
        typed_settings = override(answer.chosen)
        terminal.say(f"not saved, because it is not confirmed. To use it: {command('train')} … {typed_settings}")
