"""Batches in reused shared memory: a batch that is kept is never overwritten, and every slot is used again."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from loaderlab.config import NativeLoader
from loaderlab.data.spec import ImageArrays, Normalization, Split, TransformSpec, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.native import Native
from loaderlab.loaders.slot_writer import Message, Writer, fits
from loaderlab.loaders.slots import Slots
from loaderlab.meter.resources import proportional_memory_mib

SAMPLES, BATCH = 60, 4  # 15 steps


class Numbered(Dataset[tuple[torch.Tensor, int]]):
    """Samples that contain their own id."""

    def __init__(self, dtype: torch.dtype = torch.float32, length: int = 5) -> None:
        self.dtype, self.length = dtype, length

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, self.length), index, dtype=self.dtype), index % 2


class Growing(Numbered):
    """Samples of 1 value at first, then larger in each batch."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1 + 1000 * (index // BATCH),), float(index)), 0


class Empty(Numbered):
    """Samples without values, which a slot cannot hold."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.empty(0, 3), index % 2


Build = Callable[..., Native]


@pytest.fixture
def native() -> Iterator[Build]:
    loaders: list[Native] = []

    def build(dataset: Any = None, **settings: Any) -> Native:
        split = dataset if isinstance(dataset, Split) else Split(UserItems(dataset or Numbered(), False, None, None, 2))
        config = NativeLoader(**{"num_workers": 2, **settings})
        loaders.append(Native(config, split, EpochPlan(SAMPLES, BATCH, False, False), Cpu()))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def slots_of(loader: Native) -> Slots:
    slots = loader._slots
    assert slots is not None
    return slots


def in_slot(loader: Native, batch: Batch) -> bool:
    return slots_of(loader).slot_of(batch.inputs) is not None


def check(batch: Batch) -> None:
    """Every value of a sample is its id."""
    assert batch.ids is not None
    assert (batch.inputs.to(torch.float32).flatten(1) == batch.ids[:, None]).all()


@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_come_in_slots(num_workers: int, in_order: bool, native: Build) -> None:
    loader = native(num_workers=num_workers, in_order=in_order)
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            assert in_slot(loader, batch)
            assert batch.inputs.is_contiguous()
            check(batch)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_slots_reach_workers_that_are_not_forked(method: str, native: Build) -> None:
    loader = native(start_method=method)
    for batch in loader.epoch(0):
        assert in_slot(loader, batch)
        check(batch)


@pytest.mark.parametrize("persistent", [True, False])
def test_kept_batches_are_not_overwritten(persistent: bool, native: Build) -> None:
    loader = native(persistent_workers=persistent)
    kept = [batch for epoch in range(2) for batch in loader.epoch(epoch)]
    for _ in range(3):  # more epochs than slots
        for batch in loader.epoch(2):
            check(batch)
            batch.inputs.fill_(-1)  # the consumer owns it
    for batch in kept:
        check(batch)
    if persistent:
        assert sum(in_slot(loader, batch) for batch in kept) == slots_of(loader).num_slots
    del kept, batch
    assert all(in_slot(loader, batch) for batch in loader.epoch(3)), "released slots are used again"


@pytest.mark.parametrize(
    "part",
    [
        lambda inputs: inputs[1:2, 1],
        lambda inputs: inputs.numpy()[2],
        lambda inputs: inputs.detach().transpose(0, 1),
        lambda inputs: memoryview(inputs.numpy()),
        lambda inputs: inputs.untyped_storage(),
    ],
)
def test_a_part_of_a_batch_keeps_the_whole_slot(part: Callable[[torch.Tensor], Any], native: Build) -> None:
    loader = native(num_workers=1)
    epoch = loader.epoch(0)
    batch = next(epoch)
    slot = slots_of(loader).slot_of(batch.inputs)
    kept = part(batch.inputs)
    del batch
    others = [slots_of(loader).slot_of(batch.inputs) for batch in epoch]
    assert slot not in others
    assert not slots_of(loader).is_free(slot or 0)
    del kept
    assert slot in [slots_of(loader).slot_of(batch.inputs) for batch in loader.epoch(1)]


def test_a_step_that_needs_gradients_keeps_its_batch(native: Build) -> None:
    loader = native(num_workers=1)
    weight = torch.ones(5, requires_grad=True)
    losses = []
    expected = torch.zeros(5)
    for batch in loader.epoch(0):
        expected += batch.inputs.sum((0, 1))
        losses.append((batch.inputs * weight).sum())  # saves the inputs for the backward pass
        del batch
    torch.stack(losses).sum().backward()
    assert weight.grad is not None
    assert weight.grad.equal(expected)


def test_the_loader_keeps_no_reference_to_a_batch(native: Build) -> None:
    """Otherwise its memory would be released inside the next wait for data."""
    loader = native()
    for batch in loader.epoch(0):
        slot = slots_of(loader).slot_of(batch.inputs)
        assert slot is not None
        del batch
        assert not slots_of(loader)._is_viewed(slot)


def test_a_forked_process_does_not_release_the_trainers_batch(native: Build) -> None:
    loader = native(num_workers=1)
    batch = next(loader.epoch(0))
    slot = slots_of(loader).slot_of(batch.inputs)
    assert slot is not None
    if (child := os.fork()) == 0:
        del batch
        slots_of(loader).release_unused()
        os._exit(1 if slots_of(loader)._is_viewed(slot) else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child has released its copy"
    assert not slots_of(loader).is_free(slot)
    check(batch)


@pytest.mark.parametrize("persistent", [True, False])
def test_epochs_that_are_stopped_early_lose_no_slot(persistent: bool, native: Build) -> None:
    loader = native(persistent_workers=persistent)
    for epoch in range(slots_of(loader).num_slots + 2 if persistent else 3):
        stopped = loader.epoch(epoch)
        assert in_slot(loader, next(stopped))
        del stopped
    assert all(in_slot(loader, batch) for batch in loader.epoch(0))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.complex64]
)
def test_dtypes(dtype: torch.dtype, native: Build) -> None:
    loader = native(Numbered(dtype), num_workers=1)
    for batch in loader.epoch(0):
        assert in_slot(loader, batch)
        assert batch.inputs.dtype == dtype
        assert batch.ids is not None
        expected = torch.stack([torch.full((3, 5), index, dtype=dtype) for index in batch.ids.tolist()])
        assert batch.inputs.equal(expected)


def test_batches_that_grow_use_slots(native: Build) -> None:
    loader = native(Growing())
    for batch in loader.epoch(0):
        assert in_slot(loader, batch)
        check(batch)


def test_batches_that_do_not_fit_are_sent_the_usual_way(native: Build) -> None:
    loader = native(Empty())
    batches = list(loader.epoch(0))
    assert [batch.inputs.shape for batch in batches] == 15 * [(BATCH, 0, 3)]
    assert [batch.targets.tolist() for batch in batches] == 15 * [[0, 1, 0, 1]]


def test_without_memory_for_slots_batches_are_sent_the_usual_way(
    native: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)  # the workers inherit it
    loader = native()
    for batch in loader.epoch(0):
        assert not in_slot(loader, batch)
        check(batch)


def test_a_system_that_refuses_slots_is_noted(native: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    loader = native()
    assert len(loader.notes) == 1
    assert "sent through new shared memory" in loader.notes[0]
    assert "Function not implemented" in loader.notes[0]
    assert loader.shared_batches is not None
    assert loader.shared_batches.in_dev_shm
    for batch in loader.epoch(0):
        check(batch)


def images(normalize: bool) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (SAMPLES, 20, 20, 3), np.uint8)
    spec = TransformSpec(16, random_crop=True, scale=(0.5, 1.0), ratio=(0.8, 1.2), resize=16, flip=0.5)
    normalization = Normalization((0.4,) * 3, (0.2,) * 3, on_device=not normalize)
    return Split(ImageArrays(pixels, np.arange(SAMPLES, dtype=np.int64) % 5), spec, normalization)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_images_are_the_same_as_without_workers(normalize: bool, batched: bool, native: Build) -> None:
    split = images(normalize)
    reference = native(split, num_workers=0, batched=batched)
    loader = native(split, batched=batched)
    for batch, expected in zip(loader.epoch(0), reference.epoch(0), strict=True):
        assert in_slot(loader, batch)
        assert batch.inputs.equal(expected.inputs)
        assert batch.inputs.stride() == expected.inputs.stride()
        assert batch.targets.equal(expected.targets)


@pytest.fixture
def pair() -> Iterator[tuple[Slots, Writer]]:
    """Slots and the writer of their only worker, in one process."""
    slots = Slots(num_workers=1, prefetch_factor=1)
    yield slots, Writer(slots, 0)
    slots.close()
    slots.close()


def blocks(slots: Slots) -> int:
    """Bytes of memory that the file takes."""
    return os.fstat(slots._file).st_blocks * 512


def test_only_slots_that_are_needed_take_memory(pair: tuple[Slots, Writer]) -> None:
    slots, writer = pair
    for _ in range(3):
        memory = writer.take(2**20)
        assert memory is not None
        memory.fill_(1)
        assert slots.slot_of(memory) == 0
        del memory
    assert 2**20 <= blocks(slots) < 2**20 + 2**16


def test_the_memory_of_slots_is_counted(pair: tuple[Slots, Writer]) -> None:
    size = 256 * 2**20
    before = proportional_memory_mib()
    memory = pair[1].take(size)
    assert memory is not None
    memory.fill_(1)
    during = proportional_memory_mib()
    if before is None or during is None:
        pytest.skip("this kernel does not report proportional memory")
    assert 200 < during - before < 300


def test_closing_frees_the_memory_of_free_slots_and_keeps_that_of_others() -> None:
    slots = Slots(num_workers=1, prefetch_factor=1)
    writer, memory_file = Writer(slots, 0), os.dup(slots._file)
    taken = [writer.take(2**20) for _ in range(3)]
    values = taken[1]
    assert values is not None
    values.fill_(3)
    taken.clear()
    slots.close()
    assert os.fstat(memory_file).st_blocks * 512 < 2**20 + 2**16
    mapping = weakref.ref(slots._memory)
    del slots, writer
    gc.collect()
    assert (values == 3).all()
    del values
    assert mapping() is None
    os.close(memory_file)


def test_an_interrupt_is_never_lost_in_a_release(native: Build) -> None:
    """A callback of a weak reference would swallow the KeyboardInterrupt that arrives in it."""
    loader = native(num_workers=1)
    for batch in loader.epoch(0):
        references = weakref.getweakrefs(slots_of(loader)._views[slots_of(loader).slot_of(batch.inputs) or 0]())
        assert all(reference.__callback__ is None for reference in references)


def open_slot_files() -> int:
    gc.collect()
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum("loaderlab-batches" in os.readlink(file) for file in files if os.path.lexists(file))


def test_a_closed_loader_leaves_no_file_open(native: Build) -> None:
    before = open_slot_files()
    loader = native()
    kept = next(iter(loader.epoch(0)))
    assert open_slot_files() > before
    loader.close()
    check(kept)
    del kept, loader
    assert open_slot_files() == before


def test_there_is_no_slot_if_all_are_in_use(pair: tuple[Slots, Writer]) -> None:
    slots, writer = pair
    taken = [writer.take(8) for _ in range(slots.num_slots)]
    assert [slots.slot_of(memory) for memory in taken if memory is not None] == list(range(slots.num_slots))
    assert writer.take(8) is None
    assert writer.message(Batch(torch.ones(2), torch.zeros(2), None)) is None
    assert writer.take(0) is None
    taken.pop()
    assert writer.take(8) is not None


def test_a_batch_that_was_built_in_a_slot_is_not_copied(pair: tuple[Slots, Writer]) -> None:
    slots, writer = pair
    memory = writer.take(8)
    assert memory is not None
    message = writer.message(Batch(memory.view(2, 4), torch.zeros(2), None))
    assert isinstance(message, Message)
    assert message.slot == slots.slot_of(memory)
    assert slots.slot_of(torch.ones(3)) is None
    assert slots.slot_of(memory[1:]) is None


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True),
        (torch.ones(3, 2).t(), True),
        (torch.ones(1, 3)[:, :1], True),
        (torch.ones(4, 4)[:, :2], False),
        (torch.ones(3, 1).expand(3, 4), False),
        (torch.ones(9).as_strided((3, 3), (2, 2)), False),
        (torch.ones(0, 3), False),
        (torch.ones(2, requires_grad=True), False),
        (torch.ones(2, dtype=torch.complex64).conj(), False),
        (torch.nn.Parameter(torch.ones(2), requires_grad=False), False),
        (torch.ones(2, device="meta"), False),
        (torch.ones(2).to_sparse(), False),
    ],
)
def test_tensors_that_fit(tensor: torch.Tensor, expected: bool) -> None:
    assert fits(tensor) == expected
