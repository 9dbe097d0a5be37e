"""Compares the first batches of two workers while a script reads its loaders. Does not import torch before the script does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from loaderlab.attach.hooks import STACK
from loaderlab.attach.wrapping import wrap
from loaderlab.tuning.repeated_data import are_repeated, fingerprint, positions

FIRST = "_loaderlab_first_batches"
Stack = tuple[str, ...]


class FirstBatches:
    """The first batches of one iterator.

    Args:
        stack: where its loader was created.
    """

    def __init__(self, stack: Stack, num_workers: int) -> None:
        self.stack = stack
        self._positions = positions(num_workers)
        self._contents: list[int] = []
        self._count = 0

    def add(self, batch: Any) -> bool:
        """Takes the next batch; returns whether it was the last one that is needed."""
        if self._count in self._positions:
            self._contents.append(hash(fingerprint(batch)))  # a batch may be large, and its memory is measured
        self._count += 1
        return self._count > self._positions[-1]

    @property
    def are_repeated(self) -> bool:
        """Whether both workers delivered the same batches."""
        return are_repeated(self._contents)


class RepeatedData:
    """The loaders of this process whose workers repeat the data."""

    def __init__(self) -> None:
        self.stacks: set[Stack] = set()

    def hook(self, module: ModuleType) -> None:
        """Hooks the iterator of loaders with workers. The comparison runs outside of the measured wait, in the warm-up's steps."""

        def make_init(original: Callable[..., None]) -> Callable[..., None]:
            def __init__(iterator: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
                from torch.utils.data import IterableDataset  # not importable yet when the hook is installed

                original(iterator, loader, *args, **kwargs)
                if loader.num_workers > 1 and isinstance(loader.dataset, IterableDataset):
                    stack, _ = getattr(loader, STACK, ((), ()))
                    iterator.__dict__[FIRST] = FirstBatches(stack, loader.num_workers)

            return __init__

        def make_next(original: Callable[..., Any]) -> Callable[..., Any]:
            def __next__(iterator: Any) -> Any:
                batch = original(iterator)
                first = iterator.__dict__.get(FIRST)
                if first is not None:
                    self._compare(iterator, first, batch)
                return batch

            return __next__

        wrap(module._MultiProcessingDataLoaderIter, "__init__", make_init)
        wrap(module._MultiProcessingDataLoaderIter, "__next__", make_next)

    def _compare(self, iterator: Any, first: FirstBatches, batch: Any) -> None:
        is_complete = True
        with suppress(Exception):  # a user's batch of any kind must not end the script
            is_complete = first.add(batch)
        if is_complete:
            del iterator.__dict__[FIRST]
            if first.are_repeated:
                self.stacks.add(first.stack)
