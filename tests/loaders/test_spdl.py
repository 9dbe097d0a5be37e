"""Requirements for threads beyond the contract: one core each, bounded lookahead, errors reported once, no leftover threads."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from loaderlab import loaders
from loaderlab.config import SpdlLoader
from loaderlab.data.spec import DataError, Split, UserItems
from loaderlab.device.cpu import Cpu
from loaderlab.loaders.contract import EpochPlan, Loader, LoaderError
from loaderlab.loaders.resolve import in_force


class Watched(Dataset[tuple[torch.Tensor, int]]):
    """Records each read of an item. Item 7 raises ``error``, if given."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.reads: list[tuple[int, int]] = []  # index, and torch's number of threads in the reading thread
        self.error = error

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.reads.append((index, torch.get_num_threads()))
        if index == 7 and self.error is not None:
            raise self.error
        return torch.full((2,), float(index)), index % 2


def made(dataset: Any, **settings: Any) -> Loader:
    split = Split(UserItems(dataset, False, None, None, 2))
    return loaders.build(SpdlLoader(**settings), split, EpochPlan(60, 2, False, False), Cpu())


def test_builders_use_one_core_each_and_the_step_keeps_its_threads() -> None:
    torch.set_num_threads(2)
    dataset = Watched()
    loader = made(dataset, num_threads=2)
    assert loader.settings is not None
    assert in_force(loader.settings)["gil"] in ("on", "off")
    assert sum(len(batch) for batch in loader.epoch(0)) == 60
    loader.close()
    assert {threads for _, threads in dataset.reads} == {1}
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert (torch.get_num_threads(), later) == (2, [2])


@pytest.mark.parametrize(("num_threads", "buffer_size"), [(1, 1), (2, 3)])
def test_it_works_ahead_by_its_lookahead(num_threads: int, buffer_size: int) -> None:
    dataset = Watched()
    loader = made(dataset, num_threads=num_threads, buffer_size=buffer_size)
    batches = loader.epoch(0)
    next(batches)
    until = time.monotonic() + 20
    while len(dataset.reads) < 2 * (1 + loader.lookahead) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(dataset.reads) == 2 * (1 + loader.lookahead)
    loader.close()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ValueError("disk on fire"), DataError, "failed at ids 6, 7: ValueError: disk on fire"),
        (SystemExit(3), DataError, "failed at ids 6, 7: SystemExit: 3"),
        (GeneratorExit("early"), LoaderError, "loader=spdl: a thread failed: GeneratorExit: early"),
    ],
)
def test_an_error_in_a_thread_is_reported_once(
    error: BaseException, raised: type[Exception], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = set(threading.enumerate())
    loader = made(Watched(error), num_threads=2)
    batches = loader.epoch(0)
    seen: list[list[int]] = []
    with pytest.raises(raised, match=message):
        seen.extend(batch.ids.tolist() for batch in batches if batch.ids is not None)
    assert list(batches) == []
    loader.close()
    assert set(threading.enumerate()) <= threads
    assert capfd.readouterr().err == ""


def test_a_failing_source_is_reported_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def permutation() -> Any:
        raise MemoryError("no room for a permutation")

    def broken(plan: EpochPlan, epoch: int) -> Iterator[Any]:
        yield permutation()

    loader = made(Watched(), num_threads=1)
    monkeypatch.setattr("loaderlab.loaders.spdl.requests", broken)
    with pytest.raises(LoaderError, match="loader=spdl: the pipeline failed: MemoryError: no room") as error:
        list(loader.epoch(0))
    assert isinstance(error.value.__cause__, MemoryError)
    loader.close()
    assert capfd.readouterr().err == ""


def test_an_epoch_that_starts_during_another_is_complete() -> None:
    loader = made(Watched(), num_threads=2)
    earlier = loader.epoch(0)
    next(earlier)
    assert torch.cat([batch.inputs[:, 0] for batch in loader.epoch(1)]).tolist() == list(range(60))
    assert isinstance(earlier, Generator)
    earlier.close()
    loader.close()


def test_unsupported_settings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoaderError, match="loader=spdl: .* an iterable dataset has no ids. Type: loader=native"):
        loaders.build(
            SpdlLoader(),
            Split(UserItems(iter([]), True, None, None, 2)),
            EpochPlan(0, 2, False, False),
            Cpu(),
        )
    with pytest.raises(LoaderError, match="loader.pin_memory=true: .* Type: loader.pin_memory=auto"):
        made(Watched(), pin_memory=True)
    monkeypatch.setitem(sys.modules, "spdl.pipeline", None)
    monkeypatch.delitem(sys.modules, "loaderlab.loaders.spdl", raising=False)
    with pytest.raises(LoaderError, match="loader=spdl: SPDL is not installed here"):
        made(Watched())
