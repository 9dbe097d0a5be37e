"""The collectives of DistributedDataParallel in a watched program: real DDP over gloo, in a process group of one rank."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator, Sequence
from time import perf_counter_ns
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch._C._distributed_c10d import GradBucket, HashStore
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from loaderlab.attach.events import GRADIENTS, UNKNOWN, Kind, LoaderFacts, Row
from loaderlab.attach.optimizer_steps import steps_of
from loaderlab.attach.recorder import recorder
from loaderlab.attach.roles import Roles
from loaderlab.attach.session import Session

MS = 1_000_000
THREAD = 1


@pytest.fixture
def session() -> Iterator[Session]:
    distributed.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    session = Session()
    session.start()
    yield session
    session.stop()
    distributed.destroy_process_group()


def collectives() -> list[Row]:
    return [row for row in recorder.events().rows if row.kind == Kind.COLLECTIVE]


def model(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), *modules, nn.Linear(4, 1))


def backward(ddp: nn.Module) -> None:
    ddp(torch.ones(3, 4)).sum().backward()


class Late:
    """A communication hook whose result arrives after all gradients have been computed."""

    def __init__(self) -> None:
        self.arrived_ns: list[int] = []
        self.calls = 0

    def reduce(self, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.calls += 1
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()

        def arrive() -> None:
            self.arrived_ns.append(perf_counter_ns())
            future.set_result(bucket.buffer())

        threading.Timer(0.05, arrive).start()
        return future


def test_the_wait_for_gradients_is_a_collective_and_the_programs_hook_stays(session: Session) -> None:
    ddp, late = DistributedDataParallel(model()), Late()
    ddp.register_comm_hook(None, lambda state, bucket: late.reduce(bucket))
    for _ in range(3):
        backward(ddp)
    rows = collectives()
    assert len(rows) == len(late.arrived_ns) == late.calls == 3
    for row, arrived_ns in zip(rows, late.arrived_ns, strict=True):
        assert row.flags == GRADIENTS
        assert row.begin_ns <= arrived_ns <= row.end_ns


@pytest.mark.parametrize(
    "settings", [{"static_graph": True}, {"find_unused_parameters": True}, {"bucket_cap_mb": 1e-5}]
)
def test_each_backward_has_one_exchange(session: Session, settings: dict[str, Any]) -> None:
    ddp = DistributedDataParallel(model(nn.Linear(4, 4)), **settings)
    for _ in range(4):
        backward(ddp)
    assert [row.flags for row in collectives()] == 4 * [GRADIENTS]


def test_accumulated_gradients_are_exchanged_once(session: Session) -> None:
    ddp = DistributedDataParallel(model())
    for _ in range(2):
        with ddp.no_sync():
            backward(ddp)
        backward(ddp)
    assert len(collectives()) == 2


def test_the_broadcast_of_buffers_is_a_collective(session: Session) -> None:
    ddp = DistributedDataParallel(model(nn.BatchNorm1d(4)))
    for _ in range(2):
        backward(ddp)
    assert [row.flags for row in collectives()] == [0, GRADIENTS, 0, GRADIENTS]


def test_a_backward_that_fails_does_not_hide_the_next_exchange(session: Session) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.fails = nn.Linear(4, 4), nn.Linear(4, 1), True

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = self.first(inputs)
            return self.last(Fails.apply(hidden) if self.fails else hidden)  # type: ignore[no-any-return]

    module = Model()
    ddp, optimizer = DistributedDataParallel(module), torch.optim.SGD(module.parameters())
    with pytest.raises(MemoryError):
        backward(ddp)
    assert collectives() == []
    ddp, module.fails = DistributedDataParallel(module), False  # DDP itself cannot continue
    optimizer.step()
    backward(ddp)
    assert len(collectives()) == 1


def test_a_copy_of_a_model_is_measured_too_and_a_file_of_it_needs_no_loaderlab(session: Session) -> None:
    ddp = DistributedDataParallel(model())
    backward(ddp)
    assert b"loaderlab." not in pickle.dumps(ddp)
    backward(pickle.loads(pickle.dumps(ddp)))
    assert len(collectives()) == 2
    copy.deepcopy(ddp.module)(torch.ones(3, 4)).sum().backward()
    assert len(collectives()) == 2, "a model without DDP exchanges nothing"


def test_a_reentrant_checkpoint_is_reported(session: Session) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = checkpoint(self.first, inputs.requires_grad_(), use_reentrant=True)
            return self.last(hidden)  # type: ignore[no-any-return]

    backward(DistributedDataParallel(Model()))
    assert "use_reentrant" in recorder.events().program.unseparated


def test_nothing_is_recorded_without_a_session() -> None:
    distributed.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    before = recorder.num_rows
    backward(DistributedDataParallel(model(nn.BatchNorm1d(4))))
    distributed.destroy_process_group()
    assert recorder.num_rows == before
    assert not recorder.recent


# ---- from rows to steps --------------------------------------------------------------------------------------------------


def rows_of(steps: int, *collectives: tuple[float, float, int], device_ms: float | None = None) -> list[Row]:
    """Steps of 10 ms with a wait of 3 ms, each with these collectives: begin and end in the step, ms, and flags."""
    timed = device_ms is not None
    rows = [Row(Kind.START, 0, 1, THREAD, 0, 0)]
    for step in range(steps):
        begin = 10 * MS * step
        idle, since = (2 * MS, 10 * MS) if timed else (UNKNOWN, UNKNOWN)
        rows.append(Row(Kind.BATCH, 0, 1, THREAD, begin, begin + 3 * MS, 8, 0, idle, since))
        for first, last, flags in collectives:
            device_ns = UNKNOWN if device_ms is None else round(device_ms * MS)
            ends = begin + round(first * MS), begin + round(last * MS)
            rows.append(Row(Kind.COLLECTIVE, UNKNOWN, UNKNOWN, THREAD, *ends, 0, flags, device_ns))
        rows.append(Row(Kind.OPTIMIZER, UNKNOWN, UNKNOWN, THREAD, begin + 9 * MS, begin + 9 * MS))
    return [*rows, Row(Kind.BATCH, 0, 1, THREAD, 10 * MS * steps, 10 * MS * steps, 8, 0, 0, 10 * MS)]


def built(rows: Sequence[Row], *, timed: bool = False) -> Any:
    facts = LoaderFacts(0, "torch", "DataLoader", batch_size=8)
    return steps_of(rows, Roles(THREAD, frozenset({0})), [facts], frozenset({0}), timed=timed)


def test_a_steps_own_time_is_without_its_collectives() -> None:
    record = built(rows_of(4, (3.5, 4, 0), (6, 8.5, GRADIENTS)))
    for step in record.steps:
        assert (step.length_ms, step.starved_ms, step.collective_ms, step.own_ms) == pytest.approx((10, 3, 3, 7))
    assert record.num_exchanging == 4


def test_buffers_alone_are_no_exchange_of_gradients() -> None:
    assert built(rows_of(4, (3.5, 4, 0))).num_exchanging == 0


def test_on_a_device_with_a_clock_its_times_count() -> None:
    record = built(rows_of(4, (6, 6.1, GRADIENTS), device_ms=5), timed=True)
    step = record.steps[1]
    assert (step.length_ms, step.starved_ms, step.collective_ms, step.own_ms) == pytest.approx((10, 2, 5, 5))


def test_the_place_in_the_job_is_that_of_the_process_group(session: Session) -> None:
    module = model()
    optimizer = torch.optim.SGD(module.parameters())
    backward(DistributedDataParallel(module))
    optimizer.step()
    program = recorder.events().program
    assert (program.rank, program.num_ranks) == (0, 1)
    assert program.node
