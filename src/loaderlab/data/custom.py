"""A user's own dataset, map-style or iterable. Its items are used unchanged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import IterableDataset, default_collate

from loaderlab.config import CustomData, refuse
from loaderlab.data.spec import Collation, DataError, DataSpec, Split, UserItems
from loaderlab.system import user_code
from loaderlab.system.causes import described, reason

T = TypeVar("T")


def build(config: CustomData, *, whole_batches: bool = False) -> DataSpec:
    """The spec of the dataset that ``data.target`` returns. Its first item is read for shape and dtype.

    Args:
        whole_batches: its items may be anything, and ``data.collate`` makes batches of them for the user's own step.

    Raises:
        DataError: it returns no dataset, its items are not (input, target) pairs, or the classes are unknown.
        UserError: it cannot be imported, or it raises.
    """
    made = user_code.call("data.target", config.target, config.options)
    train, val = made if _is_pair(made) else (made, None)
    _refuse_no_dataset(train, config)
    if whole_batches:
        return _of_whole_batches(train, val, config)
    classes = _classes(train, config)
    source = _source(train, config, len(classes))
    sample, _ = split_item(_first(source, config), source, f"data.target={config.target}")
    return DataSpec(
        name="custom",
        train=Split(source),
        val=Split(_source(val, config, len(classes))) if val is not None else None,
        classes=classes,
        sample_shape=tuple(sample.shape),
        sample_dtype=str(sample.dtype).removeprefix("torch."),
        location=config.target,
        digest=f"{config.target}-{source.length}",
    )


def _of_whole_batches(train: Any, val: Any, config: CustomData) -> DataSpec:
    collate, count = default_collate, None
    if config.collate is not None:
        collate = user_code.function("data.collate", config.collate, "items")
    if config.count is not None:
        count = user_code.function("data.count", config.count, "batch")
    collation = Collation(
        collate,
        count,
        f"data.collate={'null' if config.collate is None else config.collate}",
        f"data.count={config.count}",
    )
    splits = [
        None if dataset is None else Split(replace(_source(dataset, config, 0), collation=collation))
        for dataset in (train, val)
    ]
    assert splits[0] is not None
    source = splits[0].source
    assert isinstance(source, UserItems)
    _first(source, config)
    return DataSpec(
        name="custom",
        train=splits[0],
        val=splits[1],
        classes=(),
        sample_shape=(),
        sample_dtype="",
        location=config.target,
        digest=f"{config.target}-{source.length}",
    )


OTHER_TASKS = (
    "for a task of another form, type model.step=package.module:function; on an emulated accelerator "
    "data.collate=torch.utils.data:default_collate"
)


def split_item(item: Any, source: UserItems, where: str) -> tuple[torch.Tensor, Any]:
    """One item as (input, target).

    Raises:
        DataError: the item is neither a pair nor a dict with the configured keys, or its input is not a tensor or array.
    """
    if isinstance(item, Mapping):
        for name, key in (("data.input_key", source.input_key), ("data.target_key", source.target_key)):
            if key is None or key not in item:
                raise DataError(
                    f"{where}: its items are dicts with the keys {', '.join(map(str, item))}; {name}={key} is not one of them; "
                    f"{OTHER_TASKS}"
                )
        item = (item[source.input_key], item[source.target_key])
    if isinstance(item, (tuple, list)) and len(item) == 2:
        if not isinstance(item[0], (torch.Tensor, np.ndarray)):
            raise DataError(
                f"{where}: the input of an item is a {type(item[0]).__name__}; a tensor or an array is needed"
            )
        target = item[1]
        if isinstance(target, np.ndarray):
            target = as_tensor(target, where, "target")
        elif isinstance(target, np.generic):  # torch's collate function does not accept all of these types
            target = target.item()
        return as_tensor(item[0], where, "input"), target
    kind = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
    raise DataError(
        f"{where}: its items must be (input, target) pairs, or dicts with data.input_key and data.target_key; got {kind}; "
        f"{OTHER_TASKS}"
    )


def as_tensor(value: torch.Tensor | np.ndarray, where: str, part: str) -> torch.Tensor:
    """A tensor with the values of an array. It shares the array's memory if torch can use it.

    Arrays with negative strides (``image[..., ::-1]``), read-only arrays and arrays of another byte order are copied.

    Raises:
        DataError: torch has no such dtype, or some of the values are masked.
    """
    if isinstance(value, torch.Tensor):
        return value.detach()
    if np.ma.is_masked(value):
        raise DataError(f"{where}: the {part} of an item is a masked array; fill it first: item.filled(0)")
    array = np.asarray(value)
    try:
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise DataError(f"{where}: the {part} of an item is an array of {array.dtype}: {reason(error)}") from error


def _source(dataset: Any, config: CustomData, num_classes: int) -> UserItems:
    _refuse_no_dataset(dataset, config)
    iterable = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    source = UserItems(dataset, iterable, config.input_key, config.target_key, num_classes, config.sharded)
    length = _run_user_code(lambda: source.length, "its __len__", config)
    if iterable and _run_user_code(lambda: iter(dataset), "its __iter__", config) is dataset:
        raise DataError(
            f"data.target={config.target}: returned a {type(dataset).__name__}, which is exhausted after one pass; return an "
            "object whose __iter__ starts again each time, such as a torch.utils.data.IterableDataset"
        )
    if not iterable and length is None:
        raise DataError(
            f"data.target={config.target}: the dataset has __getitem__ but no __len__{_why_no_length(dataset)}"
        )
    if length == 0 and not iterable:
        raise DataError(f"data.target={config.target}: the dataset is empty (its __len__ is 0)")
    return source


def _why_no_length(dataset: Any) -> str:
    try:
        len(dataset)
    except Exception as error:
        return f" that can be used: {described(error)}"
    raise AssertionError


def _run_user_code(code: Callable[[], T], what: str, config: CustomData) -> T:
    """The result of a call into the user's code.

    Raises:
        DataError: the call fails.
    """
    try:
        return code()
    except user_code.FAILURES as error:
        raise DataError(f"data.target={config.target}: {what} failed: {described(error)}") from error


def _is_pair(made: Any) -> bool:
    """Whether this is a pair of datasets. An instance of a subclass of list is one dataset."""
    return (isinstance(made, tuple) or type(made) is list) and len(made) == 2


def _refuse_no_dataset(dataset: Any, config: CustomData) -> None:
    if isinstance(dataset, str) or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        raise DataError(
            f"data.target={config.target}: returned a {type(dataset).__name__}; a dataset is needed (with __getitem__ and "
            "__len__, or with __iter__), or a pair of datasets (train, val)"
        )


def _first(source: UserItems, config: CustomData) -> Any:
    nothing = object()
    item = _run_user_code(
        lambda: next(iter(source.dataset), nothing) if source.iterable else source.dataset[0], "its first item", config
    )
    if item is nothing:
        raise DataError(f"data.target={config.target}: the dataset is empty")
    return item


def _classes(dataset: Any, config: CustomData) -> tuple[str, ...]:
    """Names of the classes: the dataset's own ``classes`` if that is a list of names, otherwise 0 to ``data.num_classes`` - 1."""
    declared: Any = _run_user_code(lambda: getattr(dataset, "classes", None), "its `classes`", config)
    is_list = isinstance(declared, (Collection, np.ndarray)) and not isinstance(declared, (str, bytes))
    if is_list and (names := _run_user_code(lambda: tuple(map(str, declared)), "its `classes`", config)):
        return names
    if config.num_classes is not None:
        return tuple(map(str, range(config.num_classes)))
    example = f"data.num_classes={declared if type(declared) is int and declared > 0 else 10}"
    kind = "is empty" if is_list else f"is a {type(declared).__name__}, not a list of names"
    allowed = "the dataset has no `classes`" if declared is None else f"`classes` of the dataset {kind}"
    raise refuse("data.target", config.target, allowed, example, error=DataError)
