"""Batches of a task of one's own, as ``data.collate`` returns them: any nesting, from workers or not, and errors of one line."""

from __future__ import annotations

import collections
import pickle
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from loaderlab import data, loaders
from loaderlab.config import CustomData, DaliLoader, NativeLoader, ReplayLoader, ResidentLoader, SpdlLoader
from loaderlab.data.spec import DataError, DataSpec
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import Batch, Counted, EpochPlan, LoaderError
from loaderlab.loaders.first_batch import batch_bytes, first_batch
from loaderlab.loaders.nesting import leaves, mapped, tensors
from loaderlab.loaders.packed import Packed, Pickled, Place, is_ordinary, pack, plain_memory
from tests import own_task

Pair = collections.namedtuple("Pair", "first second")
PLAN = EpochPlan(24, 4, shuffle=True, drop_last=True, seed=3)
HERE = own_task.__name__


@dataclass(frozen=True)
class Frozen:
    value: Any
    size: int


class Words(dict[str, Any]):
    """A dict with an attribute of its own."""

    language = "en"


class Names(list[Any]):
    pass


class Point(tuple[Any, ...]):
    """A tuple whose constructor has other arguments."""

    def __new__(cls, x: Any, y: Any) -> Point:
        return super().__new__(cls, (x, y))

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)


class Encoding(collections.UserDict[str, Any]):
    """A dict that moves itself but cannot be pinned, as Hugging Face's BatchEncoding."""

    def to(self, device: Any) -> Encoding:
        raise AssertionError("its values are copied like those of other dicts")


class Pinnable(Encoding):
    """A dict that can do both, as a TensorDict."""

    def pin_memory(self) -> Pinnable:
        return self


NESTED: dict[str, Any] = {
    "list": [torch.rand(2, 3), torch.rand(1, 3)],
    "named tuple": Pair(torch.arange(3), "text"),
    "dataclass": Frozen(torch.zeros(0, 4), 3),
    "own dict": Words(a=torch.tensor(1.5)),
    "own list": Names([torch.tensor([True])]),
    "own tuple": Point(torch.ones(2), [torch.zeros(1)]),
    "result of an operator": torch.max(torch.rand(2, 3), dim=1),
    "dict that moves itself": Encoding(ids=torch.arange(6).reshape(2, 3), words=["a", "b"]),
    "tuple in dict in list": [{"a": (torch.ones(2, dtype=torch.bfloat16), None)}],
    "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "expanded": torch.rand(1, 3).expand(4, 3),
    "transposed": torch.rand(2, 3).T,
    "complex": torch.rand(2, dtype=torch.complex64),
    "size": torch.Size([1, 2]),
    "nothing": [],
    "no tensor": {"a": 1},
}


def assert_equal(own: Any, expected: Any) -> None:
    assert type(own) is type(expected)
    for left, right in zip(leaves(own), leaves(expected), strict=True):
        if isinstance(right, torch.Tensor):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
        else:
            assert left == right


@pytest.mark.parametrize("name", NESTED)
def test_packing_keeps_structure_types_and_values(name: str) -> None:
    packed = pack(NESTED[name], plain_memory)
    sent = pickle.loads(pickle.dumps(Packed(packed.memory, Pickled(packed.content))))
    unpacked = sent.unpacked(sent.memory, lambda leaf: leaf)
    assert_equal(unpacked, NESTED[name])
    assert_equal(mapped(NESTED[name], lambda leaf: leaf), NESTED[name])


def test_strides_of_dense_tensors_are_kept() -> None:
    packed = pack(NESTED, plain_memory)
    unpacked = packed.unpacked(packed.memory, lambda leaf: leaf)
    assert unpacked["channels last"].stride() == NESTED["channels last"].stride()
    assert unpacked["expanded"].is_contiguous()
    assert all(
        tensor.data_ptr() % 64 == packed.memory.data_ptr() % 64 for tensor in tensors(unpacked) if tensor.numel()
    )


def test_a_change_of_one_tensor_does_not_count_as_a_change_of_another() -> None:
    packed = pack([torch.ones(2), torch.ones(2)], plain_memory)
    first, second = packed.unpacked(packed.memory, lambda leaf: leaf)
    weight = torch.ones(2, requires_grad=True)
    loss = (weight * first).sum()
    second.mul_(2)
    loss.backward()
    assert weight.grad is not None


def test_other_objects_stay_as_they_are() -> None:
    content = {"sequence": pack_sequence([torch.rand(3, 2)]), "weight": torch.ones(1, requires_grad=True)}
    packed = pack(content, plain_memory)
    unpacked = packed.unpacked(packed.memory, lambda leaf: leaf)
    assert isinstance(unpacked["sequence"], PackedSequence)
    assert unpacked["weight"] is content["weight"]


def test_a_dict_that_moves_itself_is_packed_unless_it_can_be_pinned() -> None:
    encoding = Encoding(ids=torch.arange(3))
    encoding.language = "en"  # type: ignore[attr-defined]
    packed = pack(encoding, plain_memory)
    assert isinstance(packed.content["ids"], Place)
    assert packed.content.language == "en"
    assert encoding["ids"].tolist() == [0, 1, 2]  # unchanged
    whole = Pinnable(ids=torch.arange(3))
    assert pack(whole, plain_memory).content is whole


def test_a_tuple_of_ones_own_keeps_its_attributes() -> None:
    point = Point(torch.ones(1), 2)
    point.name = "corner"  # type: ignore[attr-defined]
    assert mapped(point, lambda leaf: leaf).name == "corner"


def spec_of(**settings: Any) -> DataSpec:
    config = CustomData(target=f"{HERE}:datasets", **{"collate": f"{HERE}:collate", **settings})
    return data.build(config, lambda *_: None, whole_batches=True)


def batches_of(spec: DataSpec, config: NativeLoader, plan: EpochPlan = PLAN, epochs: int = 2) -> list[Batch]:
    with closing(loaders.build(config, spec.train, plan, Cpu())) as loader:
        return [loader.transfer(batch) for epoch in range(epochs) for batch in loader.epoch(epoch)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_collate(num_workers: int) -> None:
    batches = batches_of(spec_of(), NativeLoader(num_workers=num_workers))
    assert len(batches) == 12
    for batch, ids in zip(batches, [*PLAN.batches(0), *PLAN.batches(1)], strict=True):
        assert_equal(batch.inputs, own_task.collate([own_task.Boxes(24)[index] for index in ids.tolist()]))
        assert batch.ids is not None
        assert batch.ids.tolist() == ids.tolist()
        assert (batch.targets, len(batch), batch.num_items) == (None, 4, 4)
        assert all(map(is_ordinary, tensors(batch.inputs)))


def test_workers_without_slots_send_whole_batches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.loaders.native.Native._first_slots", lambda self: None)
    (batch, *_) = batches_of(spec_of(), NativeLoader(num_workers=1))
    assert_equal(batch.inputs, own_task.collate([own_task.Boxes(24)[index] for index in PLAN.batches(0)[0].tolist()]))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_stream_has_no_ids_and_counts_its_items(num_workers: int) -> None:
    spec = spec_of(options={"stream": True, "num_train": 10}, count=f"{HERE}:count")
    plan = EpochPlan(0, 4, shuffle=True, drop_last=False)
    with closing(loaders.build(NativeLoader(num_workers=num_workers), spec.train, plan, Cpu())) as loader:
        batches = [loader.transfer(batch) for batch in loader.epoch(0)]
        assert loader.counted == Counted(10, whole=True)
    assert [(batch.ids, batch.num_items, len(batch)) for batch in batches] == [
        (None, 4, own_task.count(batches[0].inputs)),
        (None, 4, own_task.count(batches[1].inputs)),
        (None, 2, own_task.count(batches[2].inputs)),
    ]


def test_torchs_collate_function_is_the_default() -> None:
    spec = data.build(CustomData(target=f"{__name__}:pairs"), lambda *_: None, whole_batches=True)
    (batch, *_) = batches_of(spec, NativeLoader(num_workers=0))
    assert isinstance(batch.inputs, Pair)
    assert batch.inputs.first.shape == (4, 2)
    assert batch_bytes(first_batch(spec.train, PLAN, Cpu())) == 4 * (2 * 4 + 8)


def pairs() -> list[Any]:
    return Names([Pair(torch.full((2,), float(index)), index) for index in range(24)])


def test_replay_repeats_whole_batches() -> None:
    spec = spec_of(count=f"{HERE}:count")
    with closing(loaders.build(ReplayLoader(num_batches=2), spec.train, PLAN, Cpu())) as loader:
        served = [loader.transfer(batch) for batch in loader.epoch(0)]
    assert len(served) == 6
    assert served[0] is served[2]
    assert served[0] is not served[1]


@pytest.mark.parametrize("config", [SpdlLoader(), DaliLoader(), ResidentLoader()], ids=lambda config: config.name)
def test_other_loaders_refuse_them(config: Any) -> None:
    with pytest.raises(
        LoaderError, match=f"loader={config.name}: cannot load batches of a task of your own.*loader=native"
    ):
        loaders.build(config, spec_of().train, PLAN, Cpu())


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "stacked": (
        {"collate": f"{HERE}:stacked"},
        r"data.collate=.*:stacked: it failed for the items .*: RuntimeError: stack",
    ),
    "nothing": (
        {"collate": f"{HERE}:nothing"},
        r"data.collate=.*:nothing: it returned nothing for the items .*return the batch",
    ),
    "default": (
        {"collate": None},
        r"data.collate=null: torch's default_collate is used, and it failed for the items .* Type for example: data.collate=",
    ),
    "half": (
        {"count": f"{HERE}:half"},
        r"data.count=.*:half: it returned 2.0 for the batch of the items .*a whole number",
    ),
    "none": ({"count": f"{HERE}:nothing"}, r"data.count=.*:nothing: it returned a NoneType for the batch"),
}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_functions_are_named(name: str, num_workers: int) -> None:
    settings, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        batches_of(spec_of(**settings), NativeLoader(num_workers=num_workers))


def test_a_batch_that_cannot_be_sent_does_not_stop_the_loader_silently() -> None:
    spec = spec_of(collate=f"{HERE}:not_sendable")
    assert len(batches_of(spec, NativeLoader(num_workers=0))) == 12
    with pytest.raises(DataError, match=r"cannot be sent from a worker: .*loader.num_workers=0"):
        batches_of(spec, NativeLoader(num_workers=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"collate": "nosuch:collate"}, "data.collate=nosuch:collate: importing nosuch failed"),
        ({"collate": f"{HERE}:nosuch"}, f"data.collate={HERE}:nosuch: {HERE} has no nosuch"),
        ({"collate": f"{HERE}:OWN"}, "OWN is a list, not a function"),
        (
            {"collate": f"{HERE}:step"},
            r"it is called as step\(items\), but its arguments are .*Type for example: data.collate=",
        ),
        ({"count": f"{HERE}:step"}, r"data.count=.*: it is called as step\(batch\)"),
    ],
)
def test_functions_that_cannot_be_used_are_refused_before_a_batch(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of(**settings)


def test_a_pinned_batch_is_one_piece_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = Batch(own_task.collate([own_task.Boxes(24)[index] for index in range(4)]), None, None, counted=(4, 4))
    assert isinstance(batch.pin_memory().inputs, Packed)
    assert len(pinned) == 1
