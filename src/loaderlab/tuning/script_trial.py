"""Runs a script in a process of its own as one trial: with other settings of its training loader, and only until enough is measured.

Started as ``python -m loaderlab.tuning.script_trial ORDER``. Does not import torch before the script does.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from loaderlab.attach import hooks
from loaderlab.attach.call_stacks import call_stack
from loaderlab.attach.script import Program, run
from loaderlab.attach.session import Session
from loaderlab.attach.torch_terms import LEAST_WARMUP
from loaderlab.attach.wrapping import wrap
from loaderlab.system.causes import described
from loaderlab.system.processes import leave, process_age_s
from loaderlab.tuning.linked_files import LinkedFiles
from loaderlab.tuning.script_order import LoaderPlace, Order, Outcome, is_enough, needed_steps, read_order, write
from loaderlab.tuning.script_repeats import RepeatedData

END_S = 20.0  # after which a stopped script is ended, whatever its exit handlers do
POLL_S = 1.0


class Stopped(BaseException):
    """Ends a script that has made enough steps; ``except Exception`` does not catch it."""


class ScriptTrial:
    """The trial of this process."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._session = Session()
        self._links = LinkedFiles(Path.cwd(), order.linked_files, order.linked_folders)
        self._repeated = RepeatedData()
        self._loaders: list[tuple[LoaderPlace, weakref.ref[Any]]] = []
        self._optimizer: weakref.ref[Any] | None = None  # whose steps are counted: a program may have several
        self._num_steps = self._num_workers = self._warmup = 0
        self._window_began = self._start_s = 0.0
        self._is_stopped = False

    def start(self) -> None:
        """Installs the hooks."""
        self._links.watch()
        hooks.install(
            {
                "torch.utils.data.dataloader": self._hook_loaders,
                "torch.optim.optimizer": self._hook_optimizers,
                "torch.serialization": self._links.hook,
            }
        )
        self._session.start()

    def ended(self, error: BaseException | None) -> None:
        """The program's own code has ended."""
        if self._is_stopped:
            return
        self._finish()
        if error is not None and not isinstance(error, SystemExit):
            write(Path(self._order.result), Outcome(f"the script failed: {described(error)}"))

    def never_started(self) -> None:
        """The program could not be started; the interpreter says why."""
        write(Path(self._order.result), Outcome("the script could not be started"))

    # ---- hooks -------------------------------------------------------------------------------------------------

    def _hook_loaders(self, module: ModuleType) -> None:
        """Changes the settings of the training loader where it is created."""
        self._repeated.hook(module)
        signature = inspect.signature(module.DataLoader.__init__)

        def make(original: Callable[..., None]) -> Callable[..., None]:
            def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:
                place = LoaderPlace(*call_stack())
                if place == self._order.place:
                    given = signature.bind(loader, *args, **kwargs).arguments
                    given.pop("self")
                    args, kwargs = (), {**given, **allowed(self._order.settings)}
                original(loader, *args, **kwargs)
                self._created(place, loader)

            return __init__

        wrap(module.DataLoader, "__init__", make)

    def _created(self, place: LoaderPlace, loader: Any) -> None:
        self._loaders.append((place, weakref.ref(loader)))
        self._num_workers = max(self._num_workers, loader.num_workers)
        self._warmup = max(LEAST_WARMUP, self._warmup, loader.num_workers * (loader.prefetch_factor or 0))

    def _hook_optimizers(self, module: ModuleType) -> None:
        module.register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Counts a step, and stops the script if there are enough."""
        if self._is_stopped:
            raise Stopped
        if self._optimizer is None or self._optimizer() is None:
            self._optimizer = weakref.ref(optimizer)
        if self._optimizer() is not optimizer:
            return
        self._num_steps += 1
        if self._num_steps == 1:
            self._start_s = process_age_s()
        if self._num_steps <= self._warmup:
            self._window_began = time.perf_counter()
        elif is_enough(
            self._num_steps,
            self._warmup,
            self._num_workers,
            time.perf_counter() - self._window_began,
            self._order,
        ):
            self._is_stopped = True
            self._finish()
            threading.Thread(target=_end_in_time, name="end of the trial", daemon=True).start()
            raise Stopped

    # ---- the result --------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Writes what was measured."""
        try:
            self._session.stop()
            from loaderlab.tuning.script_outcome import batch_bytes, outcome_of

            reading, repeated = self._session.reading(), self._repeated.stacks
            outcome = self._explained(outcome_of(reading, self._lengths(), self._start_s, repeated))
            if self._order.place is None:  # the first start, which shows what the limits need
                loaders = (reference() for place, reference in self._loaders if place == outcome.place)
                sizes = [batch_bytes(loader) for loader in loaders if loader is not None]
                outcome = replace(outcome, batch_bytes=next(iter(sizes), None))
        except Exception as error:
            outcome = Outcome(f"the result could not be computed: {described(error)}")
        write(Path(self._order.result), outcome)

    def _explained(self, outcome: Outcome) -> Outcome:
        """The outcome; the problem names ``--steps`` if it is the reason."""
        limit, needed = self._order.max_steps, needed_steps(self._warmup, self._num_workers)
        if outcome.measured is not None or limit is None or not limit <= self._num_steps < needed:
            return outcome
        text = f"{outcome.problem}. --steps {limit} ended the script too early: type --steps {needed} or more"
        return replace(outcome, problem=text)

    def _lengths(self) -> dict[tuple[str, ...], int]:
        """Number of batches of each loader that has a length, by the stack of its place."""
        lengths = {}
        for place, reference in self._loaders:
            loader = reference()
            if loader is not None:
                with suppress(Exception):  # a sampler of the user's, or a data set without a length
                    lengths[place.stack] = len(loader)
        return lengths


def allowed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that replace those of the program: without workers, a DataLoader refuses some."""
    changed = {name: value for name, value in settings.items() if value is not None}
    if not settings["num_workers"]:
        changed |= {"prefetch_factor": None, "persistent_workers": False, "multiprocessing_context": None, "timeout": 0}
    return changed


def _end_in_time() -> None:
    time.sleep(END_S)
    os._exit(0)


def _end_with(starter: int) -> None:
    """Ends this process when the one that started it has ended."""
    while os.getppid() == starter:
        time.sleep(POLL_S)
    os._exit(1)


def main() -> None:
    """Runs the trial; the argument is the file of the order."""
    order = read_order(Path(sys.argv[1]))
    threading.Thread(target=_end_with, args=(order.starter,), name="parent", daemon=True).start()
    trial = ScriptTrial(order)
    trial.start()
    try:
        run(Program(order.program, order.is_module, order.arguments), trial.ended, trial.never_started)
    except Stopped:
        leave(0)


if __name__ == "__main__":
    main()
