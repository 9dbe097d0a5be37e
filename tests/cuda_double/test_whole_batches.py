"""Batches of a task of one's own on the double: copied whole and beside the step, and safe whatever the host frees."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from loaderlab import data, loaders
from loaderlab.config import CustomData, NativeLoader
from loaderlab.data.spec import Split
from loaderlab.device.cpu import Cpu
from loaderlab.device.timeline import RealClock, VirtualClock
from loaderlab.loaders.contract import Batch, EpochPlan
from loaderlab.loaders.copying import DeviceCopy
from loaderlab.loaders.nesting import tensors
from tests import own_task
from tests.cuda_double import test_loaders
from tests.cuda_double.double import DEVICE, GPU, Double
from tests.cuda_double.patches import installed
from tests.loaders.test_whole_batches import NESTED

MS = 1_000_000
PLAN = EpochPlan(24, 4, shuffle=True, drop_last=True, seed=3)
NAMES = (
    "native",
    "native, workers",
    "native, pageable",
    "native, step's stream",
    "replay",
)  # that support whole batches
LOADERS = {name: loader for name, loader in test_loaders.LOADERS.items() if name in NAMES}


def boxes() -> Split:
    here = own_task.__name__
    config = CustomData(target=f"{here}:datasets", collate=f"{here}:collate")
    return data.build(config, lambda *_: None, whole_batches=True).train


@pytest.mark.parametrize("name", LOADERS)
def test_batches_are_whole_whatever_the_host_frees(name: str) -> None:
    reference = loaders.build(NativeLoader(num_workers=0), boxes(), PLAN, Cpu())
    expected = [torch.stack([t.mean() for t in tensors(batch.inputs)]).sum() for batch in reference.epoch(0)]
    served = []
    with installed(Double(RealClock() if "workers" in name else VirtualClock())) as double:
        with closing(loaders.build(LOADERS[name], boxes(), PLAN, GPU)) as loader:
            for batch in loader.epoch(0):
                moved = loader.transfer(batch)
                assert isinstance(moved.inputs, own_task.Boxed)
                assert {tensor.device for tensor in tensors(moved.inputs)} == {DEVICE}
                double.work(5 * MS, "step")
                served.append(torch.stack([tensor.mean() for tensor in tensors(moved.inputs)]).sum())
                del batch, moved
        values = [value.cpu() for value in served]
    count = 2 if name == "replay" else len(expected)
    assert torch.allclose(torch.stack(values[:count]), torch.stack(expected[:count]), atol=1e-4)


def test_a_pinned_batch_is_copied_at_once_beside_the_step() -> None:
    with (
        installed(Double(VirtualClock(), copy_gb_per_s=1e-3)) as double,
        closing(loaders.build(NativeLoader(num_workers=0), boxes(), PLAN, GPU)) as loader,
    ):
        batch = next(loader.epoch(0))
        double.work(1000 * MS, "step")
        began_ns, num_logged = double.clock.now(), len(double.timeline.log)
        loader.transfer(batch)
        assert double.clock.now() == began_ns  # the host does not wait
        assert not double.default_stream.query()
        copies = list(double.timeline.log)[num_logged:]
        assert len(copies) == 1
        assert copies[0].stop_ns - began_ns < 1000 * MS  # nor does the copy wait for the step


@pytest.mark.parametrize(
    ("name", "num_tensors"), [("own tuple", 2), ("result of an operator", 2), ("dict that moves itself", 1)]
)
def test_the_tensors_of_every_container_are_copied_at_once_beside_the_step(name: str, num_tensors: int) -> None:
    batch = Batch(NESTED[name], None, None, counted=(2, 2))
    with installed(Double(VirtualClock(), copy_gb_per_s=1e-3)) as double:
        copy = DeviceCopy(NativeLoader(), GPU)
        pinned = batch.pin_memory()
        double.work(1000 * MS, "step")
        began_ns, num_logged = double.clock.now(), len(double.timeline.log)
        moved = copy(pinned).inputs
        assert type(moved) is type(NESTED[name])
        assert [tensor.device for tensor in tensors(moved)] == [DEVICE] * num_tensors
        (copied,) = list(double.timeline.log)[num_logged:]
        assert copied.stop_ns - began_ns < 1000 * MS
