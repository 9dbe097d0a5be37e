"""`loaderlab.tune`: the cheapest settings of a user's loader that keep the device fed, with the user's own step."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from loaderlab.config import AUTO, TrackingConfig, TuneConfig, UserError, WrongUsage, refuse
from loaderlab.device.base import Device
from loaderlab.device.resolve import resolve_device
from loaderlab.system.processes import Terminated, sigterm_raises
from loaderlab.tuning.candidate import Branch
from loaderlab.tuning.first_batch import Checked
from loaderlab.tuning.sending import FOR_WORKERS, cannot_send, parts_of
from loaderlab.tuning.trial import Facts, Measured, Trial, TrialFailed
from loaderlab.tuning.tuned import Tuned, answered
from loaderlab.tuning.user_loader import LoaderSource, source_of
from loaderlab.tuning.user_process import CannotStart, FreshProcesses, Place, ThisProcess, leave_if_importing
from loaderlab.tuning.user_trial import Program

FORK = "fork"
Loader = DataLoader[Any] | Callable[..., Iterable[Any]]


class ProgramEngine:
    """Runs the trials of a user's loader and step."""

    def __init__(self, program: Program, device: Device) -> None:
        self._program, self._device = program, device
        self._place: Place = ThisProcess(program)

    def facts(self) -> Facts:
        """What the first batch shows. Does one step with it.

        Raises:
            UserError: nothing can be tuned.
        """
        source = self._program.source
        _refuse_unpicklable(source)
        batch, in_process = self._first_batch()
        capabilities = self._device.capabilities
        facts = Facts(
            current=source.current,
            branches=(source.current.branch,),
            epoch_steps=batch.epoch_steps,
            batch_size=batch.batch_size,
            batch_bytes=batch.batch_bytes,
            takes_copies=capabilities.takes_copies,
            uses_host_cores=capabilities.uses_host_cores,
            can_start=_start_methods(source),
            in_process=in_process,
            in_dev_shm=source.example is not None,
            no_gaps="" if batch.epoch_steps else "the loader has no length",
        )
        return replace(facts, notes=facts.own_notes(shows_samples=batch.shows_samples))

    def _first_batch(self) -> tuple[Checked, str]:
        """What the first batch showed, and why trials run in this process; empty if each has its own.

        Raises:
            UserError: it fails. If its process was killed, it is not done again in this process, which might be killed too.
        """
        reason = cannot_send({"the step": self._program.step, **parts_of(self._program.source.example)})
        reason = reason or cannot_send({"the loader": self._program.source})
        if not reason:
            try:
                return self._in_fresh_process(), ""
            except CannotStart as error:
                reason = f"{error}"
            except TrialFailed as error:
                raise UserError(
                    f"nothing can be tuned, because the first batch and step fail in a fresh process: {error}"
                ) from None
        return self._place.check(), reason

    def _in_fresh_process(self) -> Checked:
        """What the first batch showed in a fresh process, where the trials will run too.

        Raises:
            CannotStart: the program cannot be sent to one.
            TrialFailed: it was killed, or took too long.
        """
        place = FreshProcesses(self._program)
        try:
            batch = place.check()
            self._place = place
        finally:
            if self._place is not place:
                place.close()
        return batch

    def refuses(self, branch: Branch) -> str:
        """Empty: only the user's own loader is tried."""
        return ""

    def run(self, trial: Trial) -> Measured:
        """Measures a trial.

        Raises:
            TrialFailed: it died, or too few steps could be measured.
        """
        return self._place.measure(trial)

    def close(self) -> None:
        """Removes the copy of the loader and the step."""
        self._place.close()


def _refuse_unpicklable(source: LoaderSource) -> None:
    """Refuses a loader whose workers start with spawn or forkserver, if they cannot get its parts."""
    method = source.current.start_method or multiprocessing.get_start_method()
    if method != FORK and (reason := cannot_send(parts_of(source.example, FOR_WORKERS))):
        raise UserError(
            f"loader: its workers start with {method}, and {reason}. Define it at the top level of a module, or use "
            'multiprocessing_context="fork"'
        )


def _start_methods(source: LoaderSource) -> tuple[str, ...]:
    methods = multiprocessing.get_all_start_methods()
    if source.example is None or cannot_send(parts_of(source.example, FOR_WORKERS)):
        methods = [method for method in methods if method == FORK]
    return tuple(methods)


def tune(
    loader: Loader,
    step: Callable[[Any], object],
    *,
    device: str = AUTO,
    minutes: float = 3.0,
    max_starved_pct: float = 5.0,
    max_makers: int | None = None,
    memory_mib: float | None = None,
    record: str | None = None,
    uri: str = AUTO,
    experiment: str = "loaderlab",
) -> Tuned:
    """The cheapest settings of a loader that keep the device fed, confirmed by measurements.

    Call it under ``if __name__ == "__main__":``, with a step and a loader that can be pickled: each trial then has a process of its own,
    with copies of both. Otherwise trials run in this process, and the step changes its model as in training.

    Args:
        loader: a DataLoader, which is built again with other settings; or a function with the keywords ``num_workers``,
            ``prefetch_factor``, ``pin_memory``, ``persistent_workers`` and ``multiprocessing_context`` that returns a loader.
        step: does one whole step with a batch, copies to the device included.
        device: where the step runs: auto, cpu, cuda or cuda:N.
        minutes: time limit of the search and its confirmation together.
        max_starved_pct: the device is fed if it is starved for less than this share of the time, percent.
        max_makers: largest number of workers; None: as many as the cores can use.
        memory_mib: memory that the loader may use; None: what the machine and its cgroup have left.
        record: name of an MLflow run to record, with a child run for each trial; None: no run.
        uri: MLflow store of that run; `auto` is mlruns/mlflow.db of the checkout, or of the working folder if
            loaderlab is installed.
        experiment: MLflow experiment of that run.

    Raises:
        UserError: a value is not allowed, the loader cannot be built again, the step fails with the first batch, or the answer
            cannot be recorded; it is printed before.
        Terminated: SIGTERM was received, which the program does not handle itself. What is known is recorded and printed before. It is
            a KeyboardInterrupt.
    """
    leave_if_importing()
    if not callable(step):
        raise WrongUsage(f"step: {type(step).__name__} is not a function of a batch")
    config = _config(minutes, max_starved_pct, max_makers, memory_mib)
    place = resolve_device(device)
    source = source_of(loader, pins=place.capabilities.takes_copies)
    engine = ProgramEngine(Program(source, step, str(place), max_makers), place)
    with _sigterm() as received:
        try:
            tuned = answered(engine, config, record, TrackingConfig(uri, experiment))
        finally:
            engine.close()
    if received:
        print(tuned, flush=True)  # the caller does not get it
        raise Terminated
    return tuned


def _sigterm() -> AbstractContextManager[Sequence[int]]:
    """As `sigterm_raises`, unless the program handles the signal itself, or this is not the main thread, where signals arrive."""
    is_main = threading.current_thread() is threading.main_thread()
    return sigterm_raises() if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else nullcontext(())


def _config(minutes: float, max_starved_pct: float, max_makers: int | None, memory_mib: float | None) -> TuneConfig:
    """The settings of the tuner.

    Raises:
        WrongUsage: a value is not allowed.
    """
    if not minutes > 0:
        raise refuse("minutes", minutes, "must be above 0", "minutes=3")
    if not 0 < max_starved_pct < 100:
        raise refuse("max_starved_pct", max_starved_pct, "must be above 0 and below 100", "max_starved_pct=5")
    if max_makers is not None and max_makers < 0:
        raise refuse("max_makers", max_makers, "must be at least 0", "max_makers=8")
    if memory_mib is not None and not memory_mib > 0:
        raise refuse("memory_mib", memory_mib, "must be above 0", "memory_mib=8192")
    return TuneConfig(minutes=minutes, max_starved_pct=max_starved_pct, max_makers=max_makers, memory_mib=memory_mib)
