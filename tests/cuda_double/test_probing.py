"""The loader in the probes on the double: alone with its copies, and at the same time as the ceiling."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from loaderlab.loaders.contract import Batch
from loaderlab.probes.ceiling import ceiling, resident_batches
from loaderlab.probes.loader_alone import loader_alone
from tests.cuda_double.double import GPU
from tests.cuda_double.patches import installed
from tests.cuda_double.scenario import BATCH, Loop, PlannedLoader, double_for, play
from tests.cuda_double.test_probes import probed
from tests.parts import model_step

LOOP = Loop(lambda _: 5.0, workers=1, steps=60)
PATIENCE_S = 10.0  # for a thread that the machine does not let run


def test_the_loader_works_in_a_thread_during_the_contention_probe() -> None:
    with installed(double_for(LOOP)) as double:
        readers: list[str] = []

        class Noted(PlannedLoader):
            def epoch(self, epoch: int) -> Iterator[Batch]:
                readers.append(threading.current_thread().name)
                return super().epoch(epoch)

        probe, _ = probed(LOOP, double, play(LOOP, double), Noted)
    assert probe.results.contended is not None
    assert readers[-1] == "contention probe"


def test_the_contention_probe_takes_one_batch_per_step() -> None:
    taken = threading.Semaphore(0)
    with installed(double_for(LOOP)) as double:

        class Noted(PlannedLoader):
            def epoch(self, epoch: int) -> Iterator[Batch]:
                for batch in super().epoch(epoch):
                    taken.release()
                    yield batch

        def wait_for_a_batch(*_: Any) -> None:
            assert taken.acquire(timeout=PATIENCE_S), "the loader delivered no batch for this step"

        played = play(LOOP, double)
        batches = resident_batches(played.parts.loader, 0)
        model_step(played.parts).optimizer.register_step_pre_hook(wait_for_a_batch)
        assert ceiling(played.parts, batches, 0.3, 1, concurrent_loader=Noted(LOOP, double)) is not None
    assert sum(taken.acquire(blocking=False) for _ in range(3)) <= 1  # the one that it had when the probe ended


@pytest.mark.parametrize("copying", [(True, True, False), (True, True, True)])
@pytest.mark.parametrize(("prepare_ms", "copy_ms"), [(1.0, 6.0), (6.0, 1.0)])
def test_the_rate_of_the_loader_alone_includes_its_copies(
    copying: tuple[bool, bool, bool], prepare_ms: float, copy_ms: float
) -> None:
    loop = Loop(lambda _: prepare_ms, workers=1, steps=60, copy_ms=copy_ms, copying=copying)
    with installed(double_for(loop)) as double:
        alone = loader_alone(PlannedLoader(loop, double), 0, 0.5, lambda: 0.0, GPU)
    assert alone is not None
    assert alone.samples_per_s == pytest.approx(1e3 * BATCH / max(prepare_ms, copy_ms), rel=0.01)
