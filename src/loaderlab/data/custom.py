"""A user's own dataset: map-style or iterable, its items used as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from loaderlab.config import CustomData, refuse
from loaderlab.data.spec import DataError, DataSpec, Split, UserItems
from loaderlab.system import user_code


def build(config: CustomData) -> DataSpec:
    """Calls ``data.target`` and looks at one item of what it gives.

    Raises:
        DataError: it gives no dataset, its items are not (input, target) pairs, or the classes are not known.
        UserError: it does not import or raises.
    """
    made = user_code.call("data.target", config.target, config.options)
    train, val = made if isinstance(made, (tuple, list)) and len(made) == 2 else (made, None)
    _refuse_no_dataset(train, config)
    classes = _classes(train, config)
    source = _source(train, config, len(classes))
    sample, _ = split_item(_first(source, config), source, f"data.target={config.target}")
    return DataSpec(
        name="custom",
        train=Split(source),
        val=Split(_source(val, config, len(classes))) if val is not None else None,
        classes=classes,
        sample_shape=tuple(torch.as_tensor(sample).shape),
        sample_dtype=str(torch.as_tensor(sample).dtype).removeprefix("torch."),
        location=config.target,
        digest=f"{config.target}-{source.length}",
    )


def split_item(item: Any, source: UserItems, where: str) -> tuple[Any, Any]:
    """One item as (input, target).

    Raises:
        DataError: it is neither a pair, nor a dict with the declared keys, or its input is no tensor or array.
    """
    if isinstance(item, dict):
        for name, key in (("data.input_key", source.input_key), ("data.target_key", source.target_key)):
            if key is None or key not in item:
                raise DataError(
                    f"{where}: its items are dicts with the keys {', '.join(map(str, item))}; {name}={key} is none of them"
                )
        item = (item[source.input_key], item[source.target_key])
    if isinstance(item, (tuple, list)) and len(item) == 2:
        if not isinstance(item[0], (torch.Tensor, np.ndarray)):
            raise DataError(
                f"{where}: the input of an item is a {type(item[0]).__name__}; a tensor or an array is needed"
            )
        return item[0], item[1]
    found = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
    raise DataError(
        f"{where}: its items must be (input, target) pairs, or dicts with data.input_key and data.target_key; got {found}"
    )


def _source(dataset: Any, config: CustomData, num_classes: int) -> UserItems:
    _refuse_no_dataset(dataset, config)
    iterable = isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")
    source = UserItems(dataset, iterable, config.input_key, config.target_key, num_classes, config.sharded)
    if iterable and iter(dataset) is dataset:
        raise DataError(
            f"data.target={config.target}: gave a {type(dataset).__name__}, which is used up after one pass; give an object "
            "whose __iter__ begins anew, such as a torch.utils.data.IterableDataset"
        )
    if not iterable and source.length is None:
        raise DataError(f"data.target={config.target}: the dataset has __getitem__ and no __len__")
    if source.length == 0:
        raise DataError(f"data.target={config.target}: the dataset is empty")
    return source


def _refuse_no_dataset(dataset: Any, config: CustomData) -> None:
    if isinstance(dataset, str) or not (hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        raise DataError(
            f"data.target={config.target}: gave a {type(dataset).__name__}; a dataset is needed (with __getitem__ and "
            "__len__, or __iter__), or a (train, val) pair of them"
        )


def _first(source: UserItems, config: CustomData) -> Any:
    try:
        return next(iter(source.dataset)) if source.iterable else source.dataset[0]
    except StopIteration:
        raise DataError(f"data.target={config.target}: the dataset is empty") from None
    except Exception as error:
        raise DataError(
            f"data.target={config.target}: its first item failed: {type(error).__name__}: {error}"
        ) from error


def _classes(dataset: Any, config: CustomData) -> tuple[str, ...]:
    declared = getattr(dataset, "classes", None)
    if declared is not None:
        return tuple(map(str, declared))
    if config.num_classes is None:
        raise refuse(
            "data.target", config.target, "the dataset has no `classes`", "data.num_classes=10", error=DataError
        )
    return tuple(map(str, range(config.num_classes)))
