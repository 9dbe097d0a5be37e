"""Batches of a user's own dataset, map-style or iterable, built in a worker."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from loaderlab.config import refuse
from loaderlab.data.custom import OTHER_TASKS, split_item
from loaderlab.data.spec import INT64, Collation, DataError, UserItems
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.fetch import BatchFetcher, Failure, Fetched, Request
from loaderlab.loaders.slot_writer import stacked
from loaderlab.loaders.worker_death import shared_memory_advice
from loaderlab.system import user_code
from loaderlab.system.causes import described, reason, safe_text


class UserFetcher(BatchFetcher):
    """Batches of a user's map-style dataset, read with its own ``__getitems__`` if it has one."""

    def __init__(self, source: UserItems, batched: bool) -> None:
        super().__init__(batched=True)
        self._source = source
        self._many = getattr(source.dataset, "__getitems__", None) if batched else None

    def _items(self, request: Request) -> Sequence[Any]:
        ids = request.ids.tolist()
        try:
            items = list(self._many(ids)) if self._many else [self._source.dataset[index] for index in ids]
        except user_code.FAILURES as error:
            length = f"; its __len__ says {self._source.length}" if isinstance(error, LookupError) else ""
            raise DataError(
                f"data=custom: the dataset failed at ids {_brief(ids)}: {described(error)}{length}"
            ) from error
        if len(items) != len(ids):
            raise DataError(f"data=custom: its __getitems__ was called for {len(ids)} items but returned {len(items)}")
        return items

    def build(self, request: Request) -> Batch:
        return collate_items(self._items(request), self._source, request.ids)

    def stages_s(self, request: Request) -> tuple[float, float]:
        began = time.perf_counter()
        items = self._items(request)
        prepared = time.perf_counter()
        collate_items(items, self._source, request.ids)
        return prepared - began, time.perf_counter() - prepared


@dataclass(frozen=True)
class StreamEnd:
    """A worker's last message for an iterable dataset: the number of items in a last batch that was dropped."""

    num_dropped: int


class UserStream(IterableDataset[Any]):
    """A user's iterable dataset, divided into batches in the worker.

    Args:
        max_steps: number of batches at most, from all workers together.
    """

    def __init__(self, source: UserItems, batch_size: int, drop_last: bool, max_steps: int | None = None) -> None:
        self._source, self._batch_size, self._drop_last, self._max_steps = source, batch_size, drop_last, max_steps

    def __iter__(self) -> Iterator[Fetched | StreamEnd]:
        items: list[Any] = []
        left = self._share()
        if left == 0:
            return
        try:
            for item in self._source.dataset:
                items.append(item)
                if len(items) == self._batch_size:
                    yield collate_items(items, self._source, None)
                    items, left = [], None if left is None else left - 1
                    if left == 0:
                        return
            if items and not self._drop_last:
                yield collate_items(items, self._source, None)
                items = []
            yield StreamEnd(len(items))
        except DataError as error:
            yield Failure(str(error))
        except user_code.FAILURES as error:
            yield Failure(f"data=custom: the dataset failed: {described(error)}")

    def _share(self) -> int | None:
        """Number of batches of this worker; workers take turns. None: no limit."""
        worker = get_worker_info()
        if self._max_steps is None or worker is None:
            return self._max_steps
        return max(0, -(-(self._max_steps - worker.id) // worker.num_workers))


def collate_items(items: Sequence[Any], source: UserItems, ids: INT64 | None) -> Batch:
    """A user's items as one batch, by torch's own collate function; for a user's own task by ``data.collate``.

    Raises:
        DataError: the items differ in shape or type, or ``data.collate`` fails.
    """
    if source.collation is not None:
        return whole_batch(items, source.collation, ids)
    named = f"{_brief(ids.tolist())} " if ids is not None else ""
    pairs = [split_item(item, source, "data=custom") for item in items]
    if len(dtypes := {pair[0].dtype for pair in pairs}) > 1:  # in a worker, torch would convert some of them silently
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise DataError(f"data=custom: the items {named}cannot be collated: their inputs have the dtypes {names}")
    try:
        inputs = stacked([pair[0] for pair in pairs])
        if inputs is None:
            inputs = default_collate([pair[0] for pair in pairs])
        targets = default_collate([pair[1] for pair in pairs])
    except Exception as error:  # torch raises various types for items that it cannot collate
        advice = shared_memory_advice(safe_text(error))
        raise DataError(
            f"data=custom: the items {named}cannot be collated: {reason(error)}{advice}; {OTHER_TASKS}"
        ) from error
    if not isinstance(inputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        raise DataError(
            f"data=custom: a batch must be two tensors, got {type(inputs).__name__} and {type(targets).__name__}"
        )
    # on a GPU a label out of range would end the process with a device assertion some steps later
    if targets.is_floating_point() or targets.is_complex() or targets.ndim != 1:
        raise DataError(
            f"data=custom: targets must be class indices, one integer per sample; got {targets.dtype} {tuple(targets.shape)}; "
            f"{OTHER_TASKS}"
        )
    targets = targets.long()
    if targets.min() < 0 or targets.max() >= source.num_classes:
        raise refuse(
            "data",
            "custom",
            f"the targets go from {int(targets.min())} to {int(targets.max())}, but there are {source.num_classes} classes, "
            "counted from 0",
            "data.num_classes=N, or correct the dataset's `classes`",
            is_example=False,
            error=DataError,
        )
    return Batch(inputs, targets, None if ids is None else torch.from_numpy(ids))


def whole_batch(items: Sequence[Any], collation: Collation, ids: INT64 | None) -> Batch:
    """What ``data.collate`` returns for a user's items, as one batch.

    Raises:
        DataError: it fails or returns nothing, or ``data.count`` does not return a number of samples.
    """
    where = f"{len(items)} items" if ids is None else f"the items {_brief(ids.tolist())}"
    try:
        content = _called(collation.collate, list(items), collation.collate_name, where)
    except DataError as error:
        if collation.collate is not default_collate:
            raise
        allowed = str(error).removeprefix(f"{collation.collate_name}: ")
        own = "data.collate=package.module:function"
        raise refuse(
            "data.collate", "null", f"torch's default_collate is used, and {allowed}", own, error=DataError
        ) from error
    if content is None:
        raise DataError(f"{collation.collate_name}: it returned nothing for {where}; it must return the batch")
    num_samples = len(items)
    if collation.count is not None:
        counted = _called(collation.count, content, collation.count_name, f"the batch of {where}")
        try:
            num_samples = operator.index(counted)
        except TypeError:
            num_samples = 0
        if num_samples < 1:
            raise DataError(
                f"{collation.count_name}: it returned {_shown(counted)} for the batch of {where}; a whole number of at least 1 is "
                "needed"
            )
    return Batch(content, None, None if ids is None else torch.from_numpy(ids), counted=(len(items), num_samples))


def _called(function: Callable[[Any], Any], argument: Any, name: str, where: str) -> Any:
    """Raises:
    DataError: the user's function fails.
    """
    try:
        return function(argument)
    except user_code.FAILURES as error:
        advice = shared_memory_advice(safe_text(error))
        raise DataError(f"{name}: it failed for {where}: {described(error)}{advice}") from error


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int | float) else f"a {type(value).__name__}"


def _brief(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
