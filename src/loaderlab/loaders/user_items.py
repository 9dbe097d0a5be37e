"""Batches of a user's own dataset, built in a worker: map-style ones and streams."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset, default_collate

from loaderlab.config import refuse
from loaderlab.data.custom import split_item
from loaderlab.data.spec import INT64, DataError, UserItems
from loaderlab.loaders.contract import Batch
from loaderlab.loaders.fetch import BatchFetcher, Failure, Fetched, Request


class UserFetcher(BatchFetcher):
    """Batches of a user's map-style dataset, by its own ``__getitems__`` where it has one."""

    def __init__(self, source: UserItems, batched: bool) -> None:
        super().__init__(batched=True)
        self._source = source
        self._many = getattr(source.dataset, "__getitems__", None) if batched else None

    def _items(self, request: Request) -> Sequence[Any]:
        ids = request.ids.tolist()
        try:
            return self._many(ids) if self._many else [self._source.dataset[index] for index in ids]
        except Exception as error:
            raise DataError(
                f"data=custom: the dataset failed at ids {_brief(ids)}: {type(error).__name__}: {error}"
            ) from error

    def build(self, request: Request) -> Batch:
        return collate_items(self._items(request), self._source, request.ids)

    def stages_s(self, request: Request) -> tuple[float, float]:
        began = time.perf_counter()
        items = self._items(request)
        prepared = time.perf_counter()
        collate_items(items, self._source, request.ids)
        return prepared - began, time.perf_counter() - prepared


class UserStream(IterableDataset[Any]):
    """A user's iterable dataset, cut into batches in the worker."""

    def __init__(self, source: UserItems, batch_size: int, drop_last: bool) -> None:
        self._source, self._batch_size, self._drop_last = source, batch_size, drop_last

    def __iter__(self) -> Iterator[Fetched]:
        items: list[Any] = []
        try:
            for item in self._source.dataset:
                items.append(item)
                if len(items) == self._batch_size:
                    yield collate_items(items, self._source, None)
                    items = []
            if items and not self._drop_last:
                yield collate_items(items, self._source, None)
        except DataError as error:
            yield Failure(str(error))
        except Exception as error:
            yield Failure(f"data=custom: the dataset failed: {type(error).__name__}: {error}")


def collate_items(items: Sequence[Any], source: UserItems, ids: INT64 | None) -> Batch:
    """A user's items as one batch, by torch's own collation.

    Raises:
        DataError: the items do not stack: other shapes, or other types.
    """
    pairs = [split_item(item, source, "data=custom") for item in items]
    try:
        inputs, targets = (
            default_collate([pair[0] for pair in pairs]),
            default_collate([pair[1] for pair in pairs]),
        )
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"data=custom: the items {_brief(ids.tolist()) if ids is not None else ''} do not make a batch: {reason}"
        ) from error
    if not isinstance(inputs, torch.Tensor) or not isinstance(targets, torch.Tensor):
        raise DataError(
            f"data=custom: a batch must be two tensors, got {type(inputs).__name__} and {type(targets).__name__}"
        )
    # on a GPU a label out of range would end the process with an assertion of the device, steps later
    if targets.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8) or targets.ndim != 1:
        raise DataError(
            f"data=custom: targets must be class indexes, one integer a sample; got {targets.dtype} {tuple(targets.shape)}"
        )
    if targets.min() < 0 or targets.max() >= source.num_classes:
        raise refuse(
            "data",
            "custom",
            f"a target is {int(targets.max())} (smallest {int(targets.min())}), and there are {source.num_classes} classes, "
            "counted from 0",
            "data.num_classes=N, or mend the dataset's `classes`",
            is_example=False,
            error=DataError,
        )
    return Batch(inputs, targets.long(), None if ids is None else torch.from_numpy(ids))


def _brief(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
