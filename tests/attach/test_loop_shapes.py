"""Loops of many shapes: each is measured correctly, or reported as impossible to judge.

Time is simulated: reading a sample, and a step, advance the clock by a planted time.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from loaderlab.attach.reading import Reading
from loaderlab.attach.session import Session
from tests.attach.planted_time import BATCH, MS, Samples, clock


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    clock.now = MS
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", clock)
    monkeypatch.setattr("loaderlab.attach.session._counters", dict)


class Stream(IterableDataset[torch.Tensor]):
    def __init__(self, batches: int, wait_ms: float) -> None:
        self.samples = Samples(batches, wait_ms)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self.samples[index] for index in range(len(self.samples)))


def make_loader(batches: int = 40, wait_ms: float = 10, **settings: Any) -> DataLoader[torch.Tensor]:
    return DataLoader(Samples(batches, wait_ms), batch_size=BATCH, **settings)


class Trainer:
    """A model whose step takes 30 ms."""

    def __init__(self, step_ms: float = 30) -> None:
        self.model = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.step_ms = step_ms

    def step(self, batch: torch.Tensor, *, update: bool = True) -> None:
        self.model(batch).sum().backward()
        clock.pass_ms(self.step_ms)
        if update:
            self.optimizer.step()
            self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, loader: Any, ms: float = 1) -> None:
        for batch in loader:
            self.model(batch)
            clock.pass_ms(ms)


def read(loop: Callable[[], object], **options: Any) -> Reading:
    session = Session(**options)
    session.start()
    try:
        loop()
    finally:
        session.stop()
    return session.reading()


def starved(reading: Reading) -> float:
    return reading.job.figures["starvation/starved_pct"]


# ---- one thread ----------------------------------------------------------------------------------------------------


def plain() -> None:
    trainer = Trainer()
    for batch in make_loader():
        trainer.step(batch)


def endless() -> None:
    trainer, loader = Trainer(), make_loader(12)
    batches = iter(loader)
    for _ in range(60):
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(loader)
            batch = next(batches)
        trainer.step(batch)


def zipped() -> None:
    trainer = Trainer()
    for labelled, unlabelled in zip(make_loader(wait_ms=4), make_loader(wait_ms=6), strict=True):
        trainer.step(labelled + unlabelled)


def validated_inside() -> None:
    trainer, validation = Trainer(), make_loader(5, 90)
    for index, batch in enumerate(make_loader(60)):
        trainer.step(batch)
        if index % 10 == 9:
            trainer.evaluate(validation)


def validated_before_the_update() -> None:
    trainer, validation = Trainer(), make_loader(5, 90)
    for index, batch in enumerate(make_loader(60)):
        if index % 10 == 9:
            trainer.evaluate(validation)
        trainer.step(batch)


def validated_with_gradients_at_the_request() -> None:
    """As in many scripts, and in the Trainer of Hugging Face: only the model runs without gradients."""
    trainer, validation = Trainer(), make_loader(5, 90)
    for _ in range(3):
        for batch in make_loader(20):
            trainer.step(batch)
        for batch in validation:
            with torch.no_grad():
                trainer.model(batch)
            clock.pass_ms(1)


class SideStream:
    """NVIDIA's prefetcher: the next batch is requested after the current one was returned."""

    def __init__(self, loader: DataLoader[torch.Tensor]) -> None:
        self.batches = iter(loader)
        self.preload()

    def preload(self) -> None:
        self.ahead = next(self.batches, None)

    def next(self) -> torch.Tensor | None:
        batch = self.ahead
        if batch is not None:
            self.preload()
        return batch


def side_stream() -> None:
    trainer, prefetcher = Trainer(), SideStream(make_loader(60))
    while (batch := prefetcher.next()) is not None:
        trainer.step(batch)


def iterable() -> None:
    trainer = Trainer()
    for batch in DataLoader(Stream(40, 10), batch_size=BATCH):
        trainer.step(batch)


def enumerated_with_a_bar() -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    trainer = Trainer()
    for _, batch in enumerate(tqdm(make_loader(), file=sys.stderr, disable=True)):
        trainer.step(batch)


def created_per_epoch() -> None:
    trainer = Trainer()
    for _ in range(4):
        for batch in make_loader(15):
            trainer.step(batch)


def generator() -> None:
    trainer = Trainer()
    for batch in (batch * 2 for batch in make_loader()):
        trainer.step(batch)


def made_by_one_function() -> None:
    trainer = Trainer()
    training = make_loader(20)
    validation = make_loader(5, 90)
    for _ in range(3):
        for batch in training:
            trainer.step(batch)
        trainer.evaluate(validation)


def accumulated() -> None:
    trainer = Trainer()
    for index, batch in enumerate(make_loader(160)):
        trainer.step(batch, update=index % 4 == 3)


def accumulated_after_all_requests() -> None:
    """The micro-batches of a step are requested at once."""
    trainer, batches = Trainer(), iter(make_loader(160))
    for _ in range(40):
        for number, batch in enumerate([next(batches) for _ in range(4)]):
            trainer.step(batch, update=number == 3)


def two_optimizers() -> None:
    generator, discriminator = Trainer(20), Trainer(10)
    for batch in make_loader():
        discriminator.step(batch)
        generator.step(batch)


def several_updates_per_batch() -> None:
    trainer = Trainer(10)
    for batch in make_loader():
        for _ in range(3):
            trainer.step(batch)


@pytest.mark.parametrize(
    "loop",
    [
        plain,
        endless,
        zipped,
        validated_inside,
        validated_before_the_update,
        validated_with_gradients_at_the_request,
        side_stream,
        iterable,
        enumerated_with_a_bar,
        created_per_epoch,
        generator,
        made_by_one_function,
        accumulated,
        accumulated_after_all_requests,
        two_optimizers,
        several_updates_per_batch,
    ],
)
def test_a_loop_that_waits_a_quarter_of_its_time(loop: Callable[[], None]) -> None:
    reading = read(loop)
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert reading.job.verdict.grade == "starved"
    assert reading.job.figures["rate/samples_per_s"] > 0
    assert len(reading.loaders) == (2 if loop is zipped else 1)
    evaluated = "validated" in loop.__name__ or loop is made_by_one_function
    assert len(reading.others) == evaluated
    assert all("test_loop_shapes.py:" in entry.made_at for entry in [*reading.loaders, *reading.others])


def test_each_of_two_zipped_loaders_has_its_own_waits() -> None:
    slow, fast = read(zipped).loaders
    assert slow.figures["starvation/starved_pct"] == pytest.approx(15, abs=0.01)
    assert fast.figures["starvation/starved_pct"] == pytest.approx(10, abs=0.01)


def test_training_loaders_in_turn_are_judged_each() -> None:
    def loop() -> None:
        trainer = Trainer()
        for batch in make_loader(40, 10):
            trainer.step(batch)
        for batch in make_loader(40, 90):
            trainer.step(batch)

    reading = read(loop)
    slow, fast = reading.loaders
    assert slow.figures["starvation/starved_pct"] == pytest.approx(75, abs=0.01)
    assert fast.figures["starvation/starved_pct"] == pytest.approx(25, abs=0.01)
    assert 25 < starved(reading) < 75
    assert slow.made_at != fast.made_at


def test_two_loaders_of_one_function_are_distinguished_by_the_calling_line() -> None:
    reading = read(made_by_one_function)
    assert " called at " in reading.job.made_at
    assert reading.job.made_at != reading.others[0].made_at
    assert reading.others[0].figures["starvation/wait_pct"] == pytest.approx(100 * 90 / 91, abs=0.1)


def test_a_loader_per_epoch_is_one_loader() -> None:
    assert read(created_per_epoch).job.num_objects == 4


def test_a_loop_in_a_function_called_from_a_class_in_another_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "its_trainer.py").write_text(
        """
def fit(loader, step):
    for batch in loader:
        step(batch)

class Fitting:
    def __init__(self, make, step):
        self.make, self.step = make, step

    def run(self):
        fit(self.make(), self.step)
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    reading = read(lambda: importlib.import_module("its_trainer").Fitting(make_loader, Trainer().step).run())
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert any("its_trainer.py:11 run" in entry for entry in reading.job.facts.stack)


def test_persistent_workers_that_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real workers, in real time: three passes of one iterator, of which the first step is left out of each."""
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        trainer = SleepingTrainer(2)
        loader = DataLoader(Sleeping(12, 16), batch_size=BATCH, num_workers=1, persistent_workers=True)
        for _ in range(3):
            for batch in loader:
                trainer.step(batch)

    job = read(loop).job
    assert [step.position for step in job.loop.steps] == [*range(12)] * 3
    assert job.verdict.grade == "starved"
    assert job.facts.persistent_workers
    assert job.num_objects == 1


def test_an_iterator_per_step_is_measured_and_named() -> None:
    def loop() -> None:
        trainer, loader = Trainer(), make_loader(3)
        for _ in range(40):
            trainer.step(next(iter(loader)))

    reading = read(loop)
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert "created anew for every step" in reading.job.verdict.because


def test_an_evaluation_that_stops_early_before_the_update_leaves_its_steps_out() -> None:
    def loop() -> None:
        trainer, validation = Trainer(), make_loader(5, 90)
        for index, batch in enumerate(make_loader(60)):
            if index % 10 == 9:
                with torch.no_grad():
                    trainer.model(next(iter(validation)))
            trainer.step(batch)

    reading = read(loop)
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert "6 steps contain an evaluation whose end is not visible" in reading.job.verdict.because


def test_an_evaluation_after_the_update_that_stops_early_is_left_out() -> None:
    def loop() -> None:
        trainer, validation = Trainer(), make_loader(5, 90)
        for index, batch in enumerate(make_loader(60)):
            trainer.step(batch)
            if index % 10 == 9:
                with torch.no_grad():
                    trainer.model(next(iter(validation)))
                    clock.pass_ms(500)

    reading = read(loop)
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert len(reading.job.loop.steps) == 60


# ---- what cannot be judged -------------------------------------------------------------------------------------------


def test_no_loader() -> None:
    reading = read(lambda: Trainer().step(torch.zeros(4, 2)))
    assert reading.job.verdict.grade == "inconclusive"
    assert "no torch DataLoader and no DALI iterator was read" in reading.job.verdict.because


def test_no_optimizer() -> None:
    reading = read(lambda: Trainer().evaluate(make_loader()))
    assert "no torch optimizer made a visible step" in reading.job.verdict.because
    assert len(reading.others) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch 2.11, while it compiles
def test_a_compiled_step_of_the_optimizer_is_not_judged() -> None:
    """The hook leaves nothing in the compiled code, so that the step is not visible."""

    def loop() -> None:
        trainer = Trainer()
        step = torch.compile(trainer.optimizer.step, backend="eager")
        for batch in make_loader(10):
            trainer.model(batch).sum().backward()
            step()

    assert "a step inside a function that torch.compile compiled is not visible" in read(loop).job.verdict.because


def test_too_few_steps() -> None:
    def loop() -> None:
        trainer = Trainer()
        for batch in make_loader(12):
            trainer.step(batch)

    reading = read(loop)
    assert reading.job.verdict.grade == "inconclusive"
    assert "only 7 steps were measured; at least 15 are needed" in reading.job.verdict.because


def test_it_stops_after_some_steps() -> None:
    assert len(read(plain, max_steps=25).job.loop.steps) == 25


# ---- another thread reads the loader, in real time ---------------------------------------------------------------------


HIDDEN = "is read by another thread, and the wait of the training for that thread is not visible"


class Threaded:
    """A prefetcher with a thread and a queue of one batch."""

    def __init__(self, loader: DataLoader[torch.Tensor], handed: Any) -> None:
        self.handed = handed
        threading.Thread(target=self.read, args=(loader,), daemon=True).start()

    def read(self, loader: DataLoader[torch.Tensor]) -> None:
        for batch in loader:
            self.handed.put(batch)
        self.handed.put(None)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.handed.get, None)


class Sleeping(Samples):
    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.wait_ms / BATCH / 1e3)
        return torch.zeros(2)


def sleeping_loader(wait_ms: float) -> DataLoader[torch.Tensor]:
    return DataLoader(Sleeping(40, wait_ms), batch_size=BATCH)


class SleepingTrainer(Trainer):
    def step(self, batch: torch.Tensor, *, update: bool = True) -> None:
        time.sleep(self.step_ms / 1e3)
        self.optimizer.step()


def test_a_prefetcher_with_a_thread_is_measured_where_its_batches_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop(wait_ms: float) -> None:
        trainer = SleepingTrainer(4)
        for batch in Threaded(sleeping_loader(wait_ms), queue.Queue(1)):
            trainer.step(batch)

    assert read(lambda: loop(16)).job.verdict.grade == "starved"
    assert read(lambda: loop(0.1)).job.figures["starvation/starved_pct"] < 20


def test_a_prefetcher_with_futures_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        trainer, batches = SleepingTrainer(4), iter(sleeping_loader(16))
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(next, batches, None)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(next, batches, None)
                trainer.step(batch)

    assert read(loop).job.verdict.grade == "starved"


def test_a_hand_over_that_is_not_visible_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        trainer = SleepingTrainer(4)
        for batch in Threaded(sleeping_loader(8), queue.SimpleQueue()):
            trainer.step(batch)

    reading = read(loop)
    assert reading.job.verdict.grade == "inconclusive"
    assert HIDDEN in reading.job.verdict.because


class Polling(Threaded):
    """It sleeps until there is a batch, which no hook can see."""

    def __init__(self, loader: DataLoader[torch.Tensor], how: str) -> None:
        super().__init__(loader, queue.Queue(1))
        self.how = how

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.get, None)

    def take(self) -> torch.Tensor | None:
        batch: torch.Tensor | None = self.handed.get_nowait()
        return batch

    def get(self) -> torch.Tensor | None:
        while True:
            try:
                if self.how == "nowait":
                    return self.take()
                if not self.handed.empty():
                    return self.take()
            except queue.Empty:
                pass
            time.sleep(0.001)


@pytest.mark.parametrize("how", ["nowait", "empty"])
def test_a_consumer_that_polls_is_not_judged(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        trainer = SleepingTrainer(4)
        for batch in Polling(sleeping_loader(16), how):
            trainer.step(batch)

    assert HIDDEN in read(loop).job.verdict.because


def test_two_optimizers_with_a_prefetcher_make_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        generator, discriminator = SleepingTrainer(2), SleepingTrainer(2)
        for batch in Threaded(sleeping_loader(16), queue.Queue(1)):
            generator.step(batch)
            discriminator.step(batch)

    assert 38 <= len(read(loop).job.loop.steps) <= 40


# ---- training without a loader of its own ------------------------------------------------------------------------------


def in_memory() -> None:
    trainer, validation = Trainer(1), make_loader(5, 10)
    for _ in range(24):
        for _ in range(20):
            trainer.step(torch.zeros(4, 2))
        for batch in validation:
            with torch.no_grad():
                trainer.model(batch)


def cached() -> None:
    trainer, validation = Trainer(1), make_loader(5, 10)
    batches = list(make_loader(20))
    for _ in range(20):
        for batch in batches:
            trainer.step(batch)
        for batch in validation:
            with torch.no_grad():
                trainer.model(batch)


@pytest.mark.parametrize("loop", [in_memory, cached])
def test_an_evaluation_is_not_taken_for_the_training(loop: Callable[[], None]) -> None:
    reading = read(loop)
    assert not reading.can_judge
    assert "steps of the optimizer followed no batch of a loader" in reading.job.verdict.because
    assert not reading.loaders


def test_an_evaluation_next_to_a_prefetcher_is_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaderlab.attach.hooks.perf_counter_ns", time.perf_counter_ns)

    def loop() -> None:
        trainer, validation = SleepingTrainer(2), sleeping_loader(4)
        for _ in range(2):
            for batch in Threaded(sleeping_loader(16), queue.Queue(1)):
                trainer.step(batch)
            for batch in validation:
                with torch.no_grad():
                    trainer.model(batch)

    reading = read(loop)
    assert len(reading.loaders) == len(reading.others) == 1
    assert reading.job.figures["starvation/starved_pct"] > 50


def test_a_batch_that_is_requested_without_gradients_trains() -> None:
    def loop() -> None:
        trainer, batches = Trainer(), iter(make_loader(40))
        for _ in range(40):
            with torch.no_grad():
                batch = next(batches)
            trainer.step(batch)

    assert starved(read(loop)) == pytest.approx(25, abs=0.01)


def test_a_whole_pass_per_step_of_the_optimizer_trains() -> None:
    def loop() -> None:
        trainer, loader = Trainer(), make_loader(4)
        for _ in range(40):
            for batch in loader:
                trainer.step(batch, update=False)
            trainer.optimizer.step()

    assert starved(read(loop)) == pytest.approx(25, abs=0.01)


def test_the_time_between_epochs_counts_for_the_headroom_and_the_gate() -> None:
    def loop() -> None:
        trainer = Trainer(30)
        for _ in range(12):
            loader = make_loader(6, 1)
            clock.pass_ms(1)
            batches = iter(loader)
            loader.dataset.wait_ms = 300  # type: ignore[attr-defined]
            trainer.step(next(batches))
            loader.dataset.wait_ms = 1  # type: ignore[attr-defined]
            for batch in batches:
                trainer.step(batch)

    reading = read(loop)
    assert reading.job.verdict.bottleneck == "epoch gap"
    assert reading.lost_pct is not None
    assert reading.lost_pct > 50
    assert reading.job.verdict.headroom_x == pytest.approx(100 / (100 - reading.lost_pct))


def test_a_change_of_the_loader_is_no_change_of_its_speed() -> None:
    def loop() -> None:
        trainer = Trainer()
        for batch in make_loader(60, 10):
            trainer.step(batch)
        for batch in make_loader(60, 90):
            trainer.step(batch)

    job = read(loop).job
    assert "since step" not in job.verdict.because
    assert f"starved of data {job.figures['starvation/starved_pct']:.1f} %" in job.verdict.because


class Nested(Samples):
    """Its samples come from another loader, which is read in the same thread."""

    def __init__(self, batches: int) -> None:
        super().__init__(batches, 0)
        self.inner: Iterator[torch.Tensor] | None = None

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.inner is None:
            self.inner = iter(make_loader(1000, 2.5))
        clock.pass_ms(0.5)
        return next(self.inner)


def test_a_loader_inside_another_counts_once() -> None:
    def loop() -> None:
        trainer = Trainer(36)
        for batch in DataLoader(Nested(40), batch_size=BATCH):
            trainer.step(batch)

    reading = read(loop)
    assert starved(reading) == pytest.approx(25, abs=0.01)
    assert len(reading.loaders) == 1


def test_calls_on_one_line_are_distinguished() -> None:
    slow, fast = read(zipped).loaders
    assert {slow.made_at[-8:], fast.made_at[-8:]} == {", call 1", ", call 2"}
