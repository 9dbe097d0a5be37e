"""The profile of a loader of a program that is watched: ``loaderlab watch --profile-workers``. Does not import torch before the program does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import get_ident, main_thread
from types import ModuleType
from typing import Any

from loaderlab.attach.after_import import Hook
from loaderlab.attach.events import BATCH, Events, LoaderFacts, LoaderProfile
from loaderlab.attach.hooks import STACK
from loaderlab.attach.loader_facts import length, whole
from loaderlab.attach.recorder import recorder
from loaderlab.attach.wrapping import wrap
from loaderlab.diagnosis.line_figures import Wait, line_record
from loaderlab.lines.control import WorkerProfile
from loaderlab.lines.sampler import MAIN_THREAD

READ = "_loaderlab_read"  # the attribute of an iterator
LEAST_WARMUP = 5  # optimizer steps


@dataclass(frozen=True)
class _Read:
    """A loader, which may be gone when its iterator is read: in ``for batch in DataLoader(...)``.

    Attributes:
        stack, offsets: where it was made.
        num_samples: in its data, 0 if unknown: one call may make the loaders of a training and of an evaluation.
        ahead: batches that its workers make before they are requested.
    """

    stack: tuple[str, ...]
    offsets: tuple[int, ...]
    num_samples: int
    num_workers: int
    ahead: int

    @property
    def number(self) -> int:
        """The same for all loaders that were made in the same place for the same data, such as one per epoch."""
        return abs(hash((self.stack, self.offsets, self.num_samples)))

    def has(self, facts: LoaderFacts) -> bool:
        """Whether these are the facts of a loader with this number."""
        return (facts.stack, facts.offsets, facts.num_samples) == (self.stack, self.offsets, self.num_samples)


class ProfiledProgram:
    """Prepares the workers of all loaders, and profiles the loader that was read last before the warm-up's last step of an optimizer.

    Raises:
        UserError: the system is not Linux.
    """

    def __init__(self) -> None:
        self._profile = WorkerProfile()
        self._num_steps = 0
        self._last: tuple[_Read, int] | None = None  # the loader that was read last, and the thread
        self._profiled: _Read | None = None
        self._in_thread = False  # the loader has no workers and is read by another thread than the main one

    @property
    def hooks(self) -> Mapping[str, Hook]:
        """See `loaderlab.attach.hooks.install`."""
        return {"torch.utils.data.dataloader": self._hook_loaders, "torch.optim.optimizer": self._hook_optimizers}

    def _hook_loaders(self, module: ModuleType) -> None:
        wrap(module._BaseDataLoaderIter, "__init__", self._created)
        wrap(module._MultiProcessingDataLoaderIter, "__init__", self._prepared)
        wrap(module._BaseDataLoaderIter, "__next__", self._noted)

    def _created(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
            iterator.__dict__[READ] = _read(loader)
            original(iterator, loader, *args, **kwargs)

        return __init__

    def _prepared(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
            if not recorder.on:
                original(iterator, loader, *args, **kwargs)
                return
            with self._profile.prepared(loader, _read(loader).number):
                original(iterator, loader, *args, **kwargs)

        return __init__

    def _noted(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __next__(iterator: Any) -> Any:
            if not self._profile.begun:
                read = iterator.__dict__.get(READ)
                self._last = None if read is None else (read, get_ident())
            return original(iterator)

        return __next__

    def _hook_optimizers(self, module: ModuleType) -> None:
        module.register_optimizer_step_post_hook(self._stepped)

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        import torch

        if torch.compiler.is_compiling():  # traced by torch.compile, this must leave nothing in the graph
            return
        if self._profile.begun or not recorder.on or get_ident() != recorder.step_thread:
            return
        self._num_steps += 1
        if self._last is None:
            return
        loader, thread = self._last
        if self._num_steps >= max(LEAST_WARMUP, loader.ahead):
            self._profiled = loader
            self._in_thread = not loader.num_workers and thread != main_thread().ident
            self._profile.begin(loader.num_workers, loader.number)
            begin_ns, end_ns = self._profile.interval_ns
            recorder.describe(profiled_from_ns=begin_ns, profiled_to_ns=end_ns)

    def end(self) -> None:
        """Ends the profile with the program."""
        self._profile.end()

    def discard(self) -> None:
        """Removes the profile's files."""
        self._profile.close()

    def profile(self, events: Events) -> LoaderProfile:
        """What was recorded. Removes the profile's files.

        Args:
            events: of the program, with its waits.
        """
        read = self._profiled
        numbers = frozenset(facts.number for facts in events.loaders if read is not None and read.has(facts))
        begin_ns, end_ns = self._profile.interval_ns
        waits = [
            Wait(row.begin_ns, row.end_ns, None if row.idle_ns < 0 else row.idle_ns)
            for row in events.rows
            if row.kind == BATCH and row.loader in numbers and begin_ns <= row.begin_ns < end_ns
        ]
        try:
            recording = self._profile.recording()
            if self._in_thread:
                recording = replace(recording, problem=MAIN_THREAD)
            return LoaderProfile(line_record(recording, waits, read.num_workers if read else 0), numbers)
        finally:
            self._profile.close()


def _read(loader: Any) -> _Read:
    num_workers = whole(getattr(loader, "num_workers", 0))
    ahead = num_workers * whole(getattr(loader, "prefetch_factor", None))
    stack, offsets = getattr(loader, STACK, ((), ()))
    return _Read(stack, offsets, length(getattr(loader, "dataset", None)), num_workers, ahead)
