"""A user's own dataset: pairs and dicts, map-style and iterable, and the mistakes it may make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from loaderlab import data, loaders
from loaderlab.config import CustomData, DaliLoader, NativeLoader, UserError
from loaderlab.data.spec import DataError, DataSpec
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan, LoaderError

HERE = __name__


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    classes = ("low", "high")

    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index), 1.0]), int(index >= self.size // 2)


class Batched(Pairs):
    """Has its own ``__getitems__``, whose items differ from those of ``__getitem__``."""

    def __getitems__(self, ids: list[int]) -> list[tuple[torch.Tensor, int]]:
        return [(torch.tensor([float(index), 2.0]), 0) for index in ids]


class Stream(IterableDataset[dict[str, Any]]):
    def __init__(self, shards: bool = False, length: bool = False) -> None:
        self.shards = shards
        if length:
            self.__class__ = SizedStream

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if self.shards and info else (0, 1)
        for index in range(first, 10, step):
            yield {"x": np.full(3, index, np.float32), "y": index % 2}


class SizedStream(Stream):
    def __len__(self) -> int:
        return 10


class Failing(Pairs):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 7:
            raise OSError("disk on fire")
        return super().__getitem__(index)


class Uneven(Pairs):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(1 + index % 2), 0


class WrongLabels(Pairs):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 2


class FloatLabels(Pairs):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:  # type: ignore[override]  # the misuse that is tested
        return torch.zeros(2), 0.5


def pairs(size: int = 10) -> Pairs:
    return Pairs(size)


def two_sets() -> tuple[Pairs, Pairs]:
    return Pairs(10), Pairs(4)


def make(name: str = "") -> Any:
    kinds: dict[str, Any] = {
        "nothing": None,
        "number": 3,
        "empty": Pairs(0),
        "triples": [(torch.zeros(2), 1, 2)] * 4,
        "text": [("a word", 1)] * 4,
        "words": [{"x": "a word", "y": 1}] * 4,
        "once": iter([(torch.zeros(2), 1)] * 4),
        "dicts": [{"image": torch.zeros(2), "label": 1}] * 4,
        "no_classes": [(torch.zeros(2), 1)] * 4,
    }
    return kinds[name]


def raising() -> None:
    raise ZeroDivisionError("by the user's own code")


def build(target: str, **settings: Any) -> DataSpec:
    return data.build(CustomData(target=f"{HERE}:{target}", **settings), lambda *_: None)


def epoch(spec: DataSpec, config: NativeLoader | DaliLoader, size: int = 4, drop_last: bool = False) -> list[Any]:
    loader = loaders.build(config, spec.train, EpochPlan(spec.train.num_samples or 0, size, True, drop_last), Cpu())
    try:
        return list(loader.epoch(0))
    finally:
        loader.close()


def test_pairs_are_used_as_they_are() -> None:
    spec = build("pairs", options={"size": 6})
    assert (spec.classes, spec.sample_shape, spec.val) == (("low", "high"), (2,), None)
    inputs = torch.cat([batch.inputs for batch in epoch(spec, NativeLoader(num_workers=2))])
    assert sorted(inputs[:, 0].tolist()) == [0, 1, 2, 3, 4, 5]
    assert inputs.dtype == torch.float32


def test_a_pair_of_datasets_is_training_and_validation() -> None:
    spec = build("two_sets")
    assert spec.val is not None
    assert (spec.train.num_samples, spec.val.num_samples) == (10, 4)


@pytest.mark.parametrize(("batched", "mark"), [(True, 2.0), (False, 1.0)])
def test_its_own_getitems_is_used_where_batched(batched: bool, mark: float) -> None:
    inputs = torch.cat(
        [batch.inputs for batch in epoch(build("Batched"), NativeLoader(num_workers=0, batched=batched))]
    )
    assert set(inputs[:, 1].tolist()) == {mark}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("drop_last", [True, False])
def test_iterable_with_dict_items(workers: int, drop_last: bool) -> None:
    spec = build("Stream", input_key="x", target_key="y", num_classes=2)
    assert spec.train.num_samples is None
    batches = epoch(spec, NativeLoader(num_workers=workers), 4, drop_last)
    assert [len(batch) for batch in batches] == ([4, 4] if drop_last else [4, 4, 2])
    assert batches[0].ids is None
    assert batches[0].inputs[:, 0].tolist() == [0, 1, 2, 3]


def test_iterable_is_not_multiplied_by_workers() -> None:
    spec = build("Stream", input_key="x", target_key="y", num_classes=2)
    with pytest.raises(LoaderError, match=r"data\.sharded=true"):
        epoch(spec, NativeLoader(num_workers=2))
    assert sum(len(batch) for batch in epoch(spec, NativeLoader())) == 10  # auto: one worker
    sharded = build("Stream", options={"shards": True}, input_key="x", target_key="y", num_classes=2, sharded=True)
    seen = torch.cat([batch.inputs[:, 0] for batch in epoch(sharded, NativeLoader(num_workers=2), 2)])
    assert sorted(seen.tolist()) == list(range(10))


def test_iterable_with_a_length_knows_its_steps() -> None:
    spec = build("Stream", options={"length": True}, input_key="x", target_key="y", num_classes=2)
    loader = loaders.build(NativeLoader(num_workers=0), spec.train, EpochPlan(10, 4, True, True), Cpu())
    assert loader.num_steps == 2


def test_dali_refuses_an_iterable() -> None:
    with pytest.raises(LoaderError, match="loader=native"):
        epoch(build("Stream", input_key="x", target_key="y", num_classes=2), DaliLoader())


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        ("make", {"options": {"name": "nothing"}}, "returned a NoneType"),
        ("make", {"options": {"name": "number"}}, "returned a int"),
        ("make", {"options": {"name": "empty"}}, "empty"),
        ("make", {"options": {"name": "triples"}, "num_classes": 2}, "a tuple of 3"),
        ("make", {"options": {"name": "text"}, "num_classes": 2}, "the input of an item is a str"),
        ("make", {"options": {"name": "dicts"}, "num_classes": 2}, "keys image, label; data.input_key=None"),
        ("make", {"options": {"name": "words"}, "num_classes": 2, "input_key": "x", "target_key": "y"}, "is a str"),
        ("make", {"options": {"name": "once"}, "num_classes": 2}, "exhausted after one pass"),
        ("make", {"options": {"name": "no_classes"}}, "data.num_classes=10"),
        ("make", {"options": {"nosuch": 1}}, "unexpected keyword argument"),
        ("raising", {}, "ZeroDivisionError: by the user's own code"),
        ("nosuch", {}, "has no nosuch"),
        ("HERE", {}, "is a str, not a function"),
    ],
)
def test_a_wrong_target_is_refused(target: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        build(target, **settings)
    assert f"data.target={HERE}:{target}" in str(refused.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [("no_colon", "package.module:function"), ("no.such.module:f", "importing no.such.module failed")],
)
def test_a_target_that_does_not_import(target: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        data.build(CustomData(target=target), lambda *_: None)


@pytest.mark.parametrize(
    "config", [NativeLoader(num_workers=0), NativeLoader(num_workers=1), DaliLoader()], ids=["0", "1", "dali"]
)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Failing", "disk on fire"),
        ("Uneven", "cannot be collated"),
        ("WrongLabels", "2 classes"),
        ("FloatLabels", "class indices"),
    ],
)
def test_a_dataset_that_fails_during_an_epoch_raises(
    target: str, message: str, config: NativeLoader | DaliLoader
) -> None:
    with pytest.raises(DataError, match=message):
        epoch(build(target), config, size=10)


class Odd(Pairs):
    """The test chooses its ``classes`` and its ``__len__``."""

    def __init__(self, classes: Any, length: Any = 10) -> None:
        super().__init__()
        self.classes = classes
        self.length = length

    def __len__(self) -> int:
        if isinstance(self.length, BaseException):
            raise self.length
        return self.length  # type: ignore[no-any-return]  # a user's own may return anything


class Listing(Odd):
    @property
    def classes(self) -> Any:
        raise FileNotFoundError("classes.txt")

    @classes.setter
    def classes(self, _: Any) -> None:
        pass


ODD: dict[str, Callable[[], Any]] = {
    "number": lambda: Odd(10),
    "method": lambda: Odd(pairs),
    "text": lambda: Odd("cat"),
    "empty": lambda: Odd([]),
    "failing": lambda: Listing(None),
    "keys": lambda: Odd({"low": 0, "high": 1}),
    "array": lambda: Odd(np.array(["low", "high"])),
    "not implemented": lambda: Odd(("a",), NotImplementedError("no length")),
    "zero division": lambda: Odd(("a",), ZeroDivisionError("by the user")),
    "exit": lambda: Odd(("a",), SystemExit(0)),
    "float": lambda: Odd(("a",), 3.5),
    "negative": lambda: Odd(("a",), -1),
    "huge": lambda: Odd(("a",), 2**70),
    "reversed image": lambda: [(np.zeros((2, 4, 3), np.uint8)[..., ::-1], 0)] * 4,
    "list of two": lambda: Listed([(torch.zeros(2), 0)] * 2),
}


class Listed(list[tuple[torch.Tensor, int]]):
    classes = ("a",)


def odd(name: str) -> Any:
    return ODD[name]()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", r"`classes` of the dataset is a int, not a list of names\. Type for example: data\.num_classes=10"),
        ("method", "`classes` of the dataset is a function, not a list of names"),
        ("text", "`classes` of the dataset is a str, not a list of names"),
        ("empty", "`classes` of the dataset is empty"),
        ("failing", "its `classes` failed: FileNotFoundError: classes.txt"),
        ("not implemented", "has __getitem__ but no __len__ that can be used: NotImplementedError: no length"),
        ("float", "no __len__ that can be used: TypeError: 'float' object cannot be interpreted as an integer"),
        ("zero division", "its __len__ failed: ZeroDivisionError: by the user"),
        ("exit", "its __len__ failed: SystemExit: 0"),
        ("negative", "its __len__ failed: ValueError"),
        ("huge", "its __len__ failed: OverflowError"),
    ],
)
def test_odd_attributes_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        build("odd", options={"name": name})
    assert f"data.target={HERE}:odd" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["number", "method", "text", "empty"])
def test_classes_that_are_not_a_list_of_names_are_ignored(name: str) -> None:
    assert build("odd", options={"name": name}, num_classes=2).classes == ("0", "1")


@pytest.mark.parametrize("name", ["keys", "array"])
def test_names_of_classes_in_any_collection(name: str) -> None:
    assert build("odd", options={"name": name}).classes == ("low", "high")


def test_a_dataset_of_two_items_is_not_a_pair_of_datasets() -> None:
    spec = build("odd", options={"name": "list of two"})
    assert (spec.train.num_samples, spec.val) == (2, None)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_with_reversed_channels(workers: int) -> None:
    spec = build("odd", options={"name": "reversed image"}, num_classes=2)
    assert (spec.sample_shape, spec.sample_dtype) == ((2, 4, 3), "uint8")
    (batch,) = epoch(spec, NativeLoader(num_workers=workers))
    assert batch.inputs.shape == (4, 2, 4, 3)


class Unsized(Stream):
    def __len__(self) -> int:
        raise NotImplementedError


def test_an_iterable_whose_length_is_not_implemented_has_none() -> None:
    spec = build("Unsized", input_key="x", target_key="y", num_classes=2)
    assert spec.train.num_samples is None
    assert [len(batch) for batch in epoch(spec, NativeLoader(num_workers=0))] == [4, 4, 2]
