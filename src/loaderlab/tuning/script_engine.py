"""Runs the trials of a script: each starts the script in a scratch copy of the working folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from loaderlab.attach.script import Program
from loaderlab.config import UserError
from loaderlab.system.processes import signal_name
from loaderlab.tuning.candidate import Branch, Candidate
from loaderlab.tuning.process_tree import kill_tree
from loaderlab.tuning.repeated_data import REPEATED
from loaderlab.tuning.scratch_copy import Plan, copied
from loaderlab.tuning.script_order import LoaderPlace, Order, Outcome, read_outcome, write
from loaderlab.tuning.settings import arguments_of
from loaderlab.tuning.trial import LEAST_STEPS, Facts, Measured, Trial, TrialFailed, smaller_batch, too_short
from loaderlab.tuning.user_process import TRIAL

FIRST_LIMIT_S = 1800.0  # of the first trial: the script may prepare its data
LONGER = 3.0  # times as long as the first trial, another one may take
LEAST_LIMIT_S = 120.0
FIRST_S = 2.0  # measured window of the first trial
TAIL = 20  # lines of the script's output that are shown if it fails
POLL_S = 0.02


class ScriptEngine:
    """Runs the trials of a script.

    Args:
        folder: the working folder.
        plan: how it is copied.
        max_steps: optimizer steps after which a trial is stopped at the latest; None: no limit.
    """

    def __init__(self, program: Program, folder: Path, plan: Plan, max_steps: int | None) -> None:
        self._program = inside(program, folder)
        self._folder, self._plan, self._max_steps = folder, plan, max_steps
        self._own = Path(tempfile.mkdtemp(prefix="loaderlab_tune_"))
        self._first: Measured | None = None  # of the settings now, until it is asked for
        self._current = Candidate()
        self._place: LoaderPlace | None = None
        self._limit_s = FIRST_LIMIT_S
        self._number = 0
        self.made_at = ""

    def facts(self) -> Facts:
        """Runs the script once as it is, and returns what that shows.

        Raises:
            UserError: it fails, its training cannot be measured, or its workers repeat the data.
        """
        try:
            outcome = self._outcome(None, FIRST_S)
        except TrialFailed as error:
            raise UserError(f"{self._program.name} cannot be tuned: {error}{_tail(self._log)}") from None
        if outcome.epoch_steps is not None and outcome.epoch_steps < LEAST_STEPS:
            raise UserError(f"{self._program.name}: {_too_short(outcome.epoch_steps, outcome)}")
        no_gaps = _no_gaps(outcome)
        self._first, self._place, self.made_at = outcome.measured, outcome.place, outcome.made_at
        self._current = Candidate(
            makers=outcome.num_workers,
            prefetch=outcome.prefetch_factor,
            pin_memory=outcome.pin_memory,
            persistent=outcome.persistent_workers if outcome.num_workers else None,
        )
        facts = Facts(
            current=self._current,
            branches=(Branch(),),
            epoch_steps=None if no_gaps else outcome.epoch_steps,  # all trials with the time between epochs, or none
            batch_size=outcome.batch_size or 1,
            batches_per_step=outcome.batches_per_step,
            batch_bytes=outcome.batch_bytes,
            takes_copies=outcome.asynchronous,
            uses_host_cores=not outcome.asynchronous,
            in_dev_shm=True,
            no_gaps=no_gaps,
        )
        return replace(facts, notes=facts.own_notes(shows_samples=outcome.batch_size > 0))

    def refuses(self, branch: Branch) -> str:
        """Empty: only the script's own loader is tried."""
        return ""

    def run(self, trial: Trial) -> Measured:
        """Runs the script with the candidate's settings.

        Raises:
            TrialFailed: it died, or too few steps could be measured.
            UserError: its workers repeat the data.
        """
        if self._first is not None and trial.candidate == self._current and not trial.round:
            first, self._first = self._first, None
            return first
        outcome = self._outcome(trial.candidate, trial.seconds)
        assert outcome.measured is not None
        wanted = arguments_of(trial.candidate)
        prefetch = outcome.prefetch_factor if outcome.num_workers else None
        for name, value in (("num_workers", outcome.num_workers), ("prefetch_factor", prefetch)):
            if value != wanted[name]:
                raise TrialFailed(
                    f"its training loader has {name}={value} instead of {wanted[name]}: the program sets it itself after it has created the "
                    f"loader at {self.made_at}"
                )
        return outcome.measured

    def close(self) -> None:
        """Removes the scratch copy and the logs."""
        shutil.rmtree(self._own, ignore_errors=True)

    def _outcome(self, candidate: Candidate | None, seconds: float) -> Outcome:
        """Runs the script; returns an outcome with a result.

        Raises:
            TrialFailed: there is none.
            UserError: the workers repeat the data.
        """
        began = time.monotonic()
        self._number += 1
        scratch, result = self._own / self._folder.name, self._own / f"result{self._number}.json"
        try:
            copied(self._folder, self._plan, scratch)
            code = self._run(self._order(candidate, seconds, result), scratch)
        except OSError as error:
            raise TrialFailed(
                f"the working folder cannot be copied: {error.strerror or type(error).__name__}"
            ) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        outcome = read_outcome(result) if result.exists() else Outcome(_ending(code))
        if outcome.measured is None:
            raise TrialFailed(outcome.problem)
        if outcome.repeats:
            raise UserError(f"{self._program.name}: the DataLoader made at {outcome.made_at}: {REPEATED}")
        total_s = time.monotonic() - began
        if self._limit_s == FIRST_LIMIT_S:
            self._limit_s = max(LEAST_LIMIT_S, LONGER * total_s)
        return replace(outcome, measured=replace(outcome.measured, total_s=total_s))

    def _order(self, candidate: Candidate | None, seconds: float, result: Path) -> Order:
        return Order(
            program=self._program.name,
            is_module=self._program.is_module,
            arguments=tuple(self._program.arguments),
            result=str(result),
            seconds=seconds,
            starter=os.getpid(),
            max_steps=self._max_steps,
            place=None if candidate is None else self._place,
            settings={} if candidate is None else arguments_of(candidate),
            linked_files=self._plan.linked_files,
            linked_folders=self._plan.linked_folders,
        )

    @property
    def _log(self) -> Path:
        """The output of the last trial."""
        return self._own / f"trial{self._number}.log"

    def _run(self, order: Order, scratch: Path) -> int | None:
        """The exit code of the script's process; None if its time was over. Nothing of it is left."""
        path = self._own / "order.json"
        write(path, order)
        with self._log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "loaderlab.tuning.script_trial", str(path)],
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(self._folder),
                start_new_session=True,
            )
            try:
                return process.wait(self._limit_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                kill_tree(process.pid, leads_group=True)
                process.wait()


def _too_short(epoch_steps: int, first: Outcome) -> str:
    """What to do about an epoch with too few steps."""
    text = too_short(epoch_steps)
    samples = epoch_steps * first.batch_size
    if samples < LEAST_STEPS:  # too few, or unknown
        return f"{text}. Use a smaller batch size or more data"
    size = max(1, smaller_batch(samples))
    return (
        f"{text}. Set batch_size={size} for the DataLoader made at {first.made_at}, so that an optimizer step takes at most {size} samples "
        f"instead of {first.batch_size}, or use more data"
    )


def _no_gaps(first: Outcome) -> str:
    """Why the time between epochs is not known after the first start; empty if it is."""
    if first.epoch_steps is None:
        return "the loader has no length"
    missing = first.measured is None or first.measured.gap_ms is None
    return "the script is stopped before an epoch ends" if missing else ""


def inside(program: Program, folder: Path) -> Program:
    """The program with paths that are valid in a copy of the folder: relative to it, or absolute if they are outside."""
    arguments = [_outside(argument, folder) for argument in program.arguments]
    if program.is_module:
        return replace(program, arguments=arguments)
    path = Path(os.path.abspath(folder / program.name))
    name = os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
    return replace(program, name=name, arguments=arguments)


def _outside(argument: str, folder: Path) -> str:
    """An argument ``../data`` or ``--data=../data`` with the absolute path, if there is one."""
    option, equals, value = argument.rpartition("=")
    if value.split(os.sep)[0] != os.pardir or not (folder / value).exists():
        return argument
    return f"{option}{equals}{os.path.abspath(folder / value)}"


def _environment(folder: Path) -> dict[str, str]:
    """The environment of a trial: relative paths of modules stay valid in the copy."""
    environment = {**os.environ, TRIAL: "1"}
    if paths := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(os.path.join(folder, path) for path in paths.split(os.pathsep))
    return environment


def _ending(code: int | None) -> str:
    if code is None:
        return "the script took too long"
    if code < 0:
        return f"the script was ended by {signal_name(-code)}"
    return f"the script ended with exit code {code} before anything was measured"


def _tail(log: Path) -> str:
    """The last lines of the script's output; empty if it was not started."""
    if not log.exists():
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
    return "\n".join(["", "The end of the script's output:", *(f"    {line}" for line in lines)]) if lines else ""
