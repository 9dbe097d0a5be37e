"""Items of a user's own dataset as a batch: correct values or an error of one line, and all batches of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.utils.data import IterableDataset, get_worker_info

from loaderlab.config import NativeLoader
from loaderlab.data.spec import DataError, Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import Batch, Counted, EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.loaders.user_items import UserFetcher, collate_items

NUM_CLASSES = 200
KEYED = UserItems([], False, "x", "y", NUM_CLASSES)


def swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder("S"))


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def unaligned(array: np.ndarray) -> np.ndarray:
    """A view of the values in records with one more byte: its strides are not a multiple of a value's size."""
    records = np.zeros(array.shape, [("pad", "u1"), ("value", array.dtype)])
    records["value"] = array
    view: np.ndarray = records["value"]
    return view


LAYOUTS: dict[str, Any] = {
    "unchanged": lambda array: array,
    "reversed": lambda array: array[::-1],
    "channels reversed": lambda array: array[..., ::-1],
    "every second": lambda array: np.repeat(array, 2, -1)[..., ::2],
    "transposed": lambda array: array.T,
    "Fortran": np.asfortranarray,
    "read-only": read_only,
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "other byte order": swapped,
    "unaligned": unaligned,
    "masked, nothing hidden": lambda array: np.ma.masked_array(array),
    "tensor": lambda array: torch.tensor(array.tolist()),
    "tensor with a gradient": lambda array: torch.tensor(array.tolist(), dtype=torch.float64, requires_grad=True),
}
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "?"]
LABELS: dict[str, Any] = {
    "int": int,
    "bool": lambda label: bool(label % 2),
    "float": float,
    "str": str,
    "None": lambda label: None,
    "tensor": torch.tensor,
    "row": lambda label: np.array([label]),
    "0-d": lambda label: np.array(label),
    **{
        name: (lambda kind: lambda label: np.dtype(kind).type(label % 100))(name)
        for name in ("i1", "u1", "i8", "u2", "u8")
    },
    "too many": lambda label: label + NUM_CLASSES,
    "negative": lambda label: -1 - label,
    "beyond 64 bits": lambda label: 2**70 + label,
}
GOOD = {"int", "bool", "tensor", "0-d", "i1", "u1", "i8", "u2", "u8"}
NESTINGS: dict[str, Any] = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "dict": lambda x, y: {"y": y, "other": 1, "x": x},
    "mapping": lambda x, y: MappingProxyType({"x": x, "y": y}),
    "triple": lambda x, y: (x, y, 0),
    "nested": lambda x, y: ((x,), y),
    "input alone": lambda x, y: x,
    "other keys": lambda x, y: {"image": x, "y": y},
}


def batch_or_message(items: list[Any]) -> Batch | str:
    try:
        return collate_items(items, KEYED, np.arange(len(items)))
    except DataError as error:
        return str(error)


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 4),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    label=st.sampled_from(list(LABELS)),
    nesting=st.sampled_from(list(NESTINGS)),
)
def test_property_items_have_the_right_values_or_are_refused_in_one_line(
    seed: int, count: int, shape: list[int], dtype: str, layout: str, label: str, nesting: str
) -> None:
    rng = np.random.default_rng(seed)
    arrays = [LAYOUTS[layout](rng.integers(0, 100, shape).astype(dtype)) for _ in range(count)]
    labels = [LABELS[label](int(number)) for number in rng.integers(0, 100, count)]
    items = [NESTINGS[nesting](x, y) for x, y in zip(arrays, labels, strict=True)]
    batch = batch_or_message(items)
    if isinstance(batch, str):
        assert len(batch.splitlines()) == 1
        assert nesting in ("triple", "nested", "input alone", "other keys") or label not in GOOD
        return
    assert nesting in ("tuple", "list", "dict", "mapping")
    assert label in GOOD
    expected = np.stack([x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in arrays])
    assert batch.inputs.shape == expected.shape
    assert batch.inputs.tolist() == expected.tolist()
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [int(y) for y in labels]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [(np.zeros(2, "f4"), 0), (np.zeros(2, "f8"), 0)],
            "items 0, 1 cannot be collated: .* dtypes float32, float64",
        ),
        ([(np.array(["a"]), 0)], "input of an item is an array of <U1"),
        ([(np.array([None]), 0)], "input of an item is an array of object"),
        ([(np.zeros(2, "M8[s]"), 0)], r"an array of datetime64\[s\]"),
        ([(np.ma.masked_array([1.0, 2.0], [True, False]), 0)], r"a masked array; fill it first: item\.filled\(0\)"),
        ([(np.zeros(2), np.ma.masked_array([1], [True]))], "the target of an item is a masked array"),
        ([(np.zeros(2), 0), (np.zeros(3), 0)], "cannot be collated: stack expects"),
        ([(np.zeros(2), 0), (np.zeros(2), 0.5)], "class indices"),
        ([(np.zeros(2), 0), (np.zeros(2), "dog")], "cannot be collated"),
    ],
)
def test_items_that_cannot_be_collated_are_refused(items: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        collate_items(items, KEYED, np.arange(len(items)))


class Forgetful(list[tuple[torch.Tensor, int]]):
    """Its ``__getitems__`` omits an item."""

    def __getitems__(self, ids: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [self[index] for index in ids[1:]]


def test_fewer_items_than_requested_are_refused() -> None:
    source = UserItems(Forgetful([(torch.zeros(2), 0)] * 8), False, None, None, 2)
    plan = EpochPlan(8, 4, False, False)
    loader = Native(NativeLoader(num_workers=0), Split(source), plan, Cpu())
    with pytest.raises(DataError, match="called for 4 items but returned 3"):
        list(loader.epoch(0))
    assert UserFetcher(source, batched=False)._many is None


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    def __init__(self, count: int, claim: int | None) -> None:
        self.count, self.claim = count, claim

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return ((torch.tensor([float(index)]), 0) for index in range(self.count))

    def __len__(self) -> int:
        if self.claim is None:
            raise NotImplementedError
        return self.claim


class Shares(Stream):
    """Each worker has a share of its samples."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return ((torch.tensor([float(index)]), 0) for index in range(first, self.count, step))


def stream_loader(
    stream: Stream, size: int, drop_last: bool, num_workers: int = 0, max_steps: int | None = None
) -> Native:
    split = Split(UserItems(stream, True, None, None, 2, sharded=isinstance(stream, Shares)))
    plan = EpochPlan(split.num_samples or 0, size, True, drop_last, max_steps=max_steps)
    return Native(NativeLoader(num_workers=num_workers), split, plan, Cpu())


@given(
    claim=st.none() | st.integers(0, 60),
    count=st.integers(0, 60),
    size=st.integers(1, 9),
    drop_last=st.booleans(),
)
def test_property_no_batch_is_lost_and_the_counts_are_true(
    claim: int | None, count: int, size: int, drop_last: bool
) -> None:
    loader = stream_loader(Stream(count, claim), size, drop_last)
    for epoch in range(2):
        values = [batch.inputs[:, 0].tolist() for batch in loader.epoch(epoch)]
        num_used = count - count % size if drop_last else count
        assert [value for batch in values for value in batch] == list(range(num_used))
        assert all(len(batch) == size for batch in values[:-1])
        assert loader.num_steps == len(values)
        assert loader.counted == Counted(count, whole=True)
    loader.close()


@pytest.mark.parametrize("drop_last", [True, False])
def test_samples_are_counted_with_workers_too(drop_last: bool) -> None:
    loader = stream_loader(Stream(23, 10), 4, drop_last, num_workers=1)
    assert len(list(loader.epoch(0))) == (5 if drop_last else 6)
    assert loader.counted == Counted(23, whole=True)
    loader.close()


def test_an_epoch_that_is_stopped_early_is_not_whole() -> None:
    loader = stream_loader(Stream(23, 10), 4, False)
    batches = loader.epoch(0)
    for _ in range(3):
        next(batches)
    assert loader.counted == Counted(12, whole=False)
    assert loader.num_steps == 3  # by its __len__
    loader.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_of_few_steps_reads_no_more_of_a_stream(num_workers: int) -> None:
    """Its samples are not counted as all that there are, so nobody is warned of a wrong ``__len__``."""
    loader = stream_loader(Stream(23, 23), 4, False, num_workers, max_steps=3)
    assert loader.num_steps == 3
    for _ in range(2):
        values = [batch.inputs[:, 0].tolist() for batch in loader.epoch(0)]
        assert values == [[4.0 * step, 4.0 * step + 1, 4.0 * step + 2, 4.0 * step + 3] for step in range(3)]
        assert loader.counted == Counted(12, whole=False)
    loader.close()


@pytest.mark.parametrize("max_steps", [1, 3, 4, 100])
def test_workers_share_the_steps_of_a_short_epoch(max_steps: int) -> None:
    loader = stream_loader(Shares(40, None), 4, False, 2, max_steps=max_steps)
    for _ in range(2):
        assert len(list(loader.epoch(0))) == min(max_steps, 10)
    assert loader.counted == Counted(min(40, 4 * max_steps), whole=max_steps == 100)
    loader.close()


class Claimed(list[tuple[torch.Tensor, int]]):
    """A map-style dataset whose ``__len__`` may be wrong."""

    def __init__(self, count: int, claim: int) -> None:
        super().__init__((torch.full((2,), float(index)), 0) for index in range(count))
        self.claim = claim

    def __len__(self) -> int:
        return self.claim


@given(count=st.integers(0, 30), claim=st.integers(1, 30), size=st.integers(1, 9), drop_last=st.booleans())
def test_property_a_map_style_dataset_gives_what_its_length_says(
    count: int, claim: int, size: int, drop_last: bool
) -> None:
    """Each item once, the last batch short or dropped; a dataset with fewer items fails in one line."""
    split = Split(UserItems(Claimed(count, claim), False, None, None, 2))
    plan = EpochPlan(claim, size, False, drop_last)
    loader = Native(NativeLoader(num_workers=0), split, plan, Cpu())
    used = claim - claim % size if drop_last else claim
    values: list[float] = []
    sizes: list[int] = []

    def take() -> None:
        for batch in loader.epoch(0):
            values.extend(batch.inputs[:, 0].tolist())
            sizes.append(len(batch))

    if count < used:
        with pytest.raises(DataError, match=f"its __len__ says {claim}") as error:
            take()
        assert "\n" not in str(error.value)
    else:
        take()
        assert values == list(range(used))
        assert len(sizes) == loader.num_steps == -(-used // size)
        assert sizes[:-1] == [size] * (len(sizes) - 1)
    loader.close()
