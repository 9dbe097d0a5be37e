"""What becomes of a script's trial: measurements without a verdict, too few steps, workers that repeat the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from loaderlab.attach.events import LoaderFacts
from loaderlab.attach.reading import JudgedLoader, Reading
from loaderlab.attach.script import Program
from loaderlab.config import UserError
from loaderlab.diagnosis.evidence import INCONCLUSIVE
from loaderlab.diagnosis.figures import NO_PROBES, LoopRecord, evidence_of, figures_of
from loaderlab.diagnosis.verdict import judge
from loaderlab.meter.step import Step
from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.lost import OPEN, grade
from loaderlab.tuning.scratch_copy import planned
from loaderlab.tuning.script_engine import ScriptEngine
from loaderlab.tuning.script_outcome import batch_bytes, outcome_of
from loaderlab.tuning.script_repeats import FirstBatches
from loaderlab.tuning.trial import LEAST_STEPS
from loaderlab.tuning.tuned import code_of
from tests.tuning.answers import certified
from tests.tuning.user_programs import Sleeping, Stream, in_a_list

STACK = ("train.py:3 <module>",)
WIDE = [0.0] * 9 + [60.0] + [0.0] * 10  # one long wait: the interval reaches from fed to starved
STREAM = """
import itertools, sys, time
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Stream(IterableDataset):
    def __iter__(self):
        worker = get_worker_info() if "shares" in sys.argv else None
        first, number = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in itertools.islice(range(4000), first, None, number):
            yield torch.full((3,), float(index))


model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), 1e-9)
for batch in DataLoader(Stream(), batch_size=4, num_workers=2):
    model(batch).mean().backward()
    optimizer.step()
    time.sleep(0.002)
"""


def reading_of(waits_ms: Sequence[float]) -> Reading:
    """The result of watching a loop whose steps wait this long and then work for 10 ms."""
    steps = [
        Step(0, number, number, 10, (round(wait_ms * 1e6), 0, 5_000_000, 3_000_000, 2_000_000))
        for number, wait_ms in enumerate(waits_ms)
    ]
    loop = LoopRecord(steps, 0, 1, [(0, 10**9)], [0], {}, cores=2)
    verdict, figures = judge(evidence_of(loop, NO_PROBES)), figures_of(loop, NO_PROBES, None)
    facts = LoaderFacts(1, "torch", "DataLoader", STACK, num_workers=2, batch_size=10)
    job = JudgedLoader("DataLoader", "train.py:3", "training", facts, verdict, figures, loop)
    return Reading(job, (job,))


def test_a_wide_interval_is_a_measurement_that_leaves_the_grade_open() -> None:
    reading = reading_of(WIDE)
    assert reading.job.verdict.grade == INCONCLUSIVE
    assert "the confidence interval reaches from fed" in reading.job.verdict.because
    measured = outcome_of(reading, {}, 0.0).measured
    assert measured is not None
    assert grade(measured.starved_interval, 5.0) == OPEN


def test_the_whole_window_counts_if_the_starved_share_changed() -> None:
    reading = reading_of([8.0] * 60 + [0.0] * 60)
    assert evidence_of(reading.job.loop, NO_PROBES).starved_pct == 0  # of the steps after the change
    measured = outcome_of(reading, {}, 0.0).measured
    assert measured is not None
    assert measured.starved_pct == pytest.approx(100 * 4 / 14, abs=2)


def test_steps_are_counted_if_the_batches_do_not_show_their_samples() -> None:
    reading = reading_of([0.0] * 40)
    loop = replace(reading.job.loop, steps=[replace(step, num_samples=0) for step in reading.job.loop.steps])
    job = replace(reading.job, loop=loop, facts=replace(reading.job.facts, batch_size=0))
    outcome = outcome_of(Reading(job, (job,)), {}, 0.0)
    assert outcome.batch_size == 0
    assert outcome.measured is not None
    assert outcome.measured.rate == pytest.approx(100)  # steps of 10 ms


@pytest.mark.parametrize(("samples", "expected"), [(10, 100), (20, 50)])
def test_an_optimizer_step_may_need_several_batches(samples: int, expected: int) -> None:
    reading = reading_of([0.0] * 40)
    loop = replace(reading.job.loop, steps=[replace(step, num_samples=samples) for step in reading.job.loop.steps])
    job = replace(reading.job, loop=loop)
    outcome = outcome_of(Reading(job, (job,)), {STACK: 100}, 0.0)
    assert (outcome.batch_size, outcome.epoch_steps) == (samples, expected)
    assert samples // outcome.batches_per_step == 10


def test_batches_that_were_requested_ahead_do_not_change_the_size_of_a_step() -> None:
    reading = reading_of([0.0] * 20)
    first, *others = reading.job.loop.steps
    job = replace(reading.job, loop=replace(reading.job.loop, steps=[replace(first, num_samples=30), *others]))
    assert outcome_of(Reading(job, (job,)), {}, 0.0).batch_size == 10


@pytest.mark.parametrize(
    ("size", "per_step", "shown"), [(128, 4, "batch_size=32, "), (32, 1, "batch_size=32, "), (1, 1, "")]
)
def test_the_snippet_has_the_batch_size_of_the_loader(size: int, per_step: int, shown: str) -> None:
    answer = replace(certified, facts=replace(certified.facts, batch_size=size, batches_per_step=per_step))
    assert code_of(answer)(Candidate(makers=2)) == f"DataLoader(dataset, {shown}num_workers=2)"


@pytest.mark.parametrize(
    ("loader", "expected"),
    [
        (DataLoader(Sleeping(), batch_size=5), 5 * 8 * 4),
        (DataLoader(Sleeping(), batch_sampler=BatchSampler(SequentialSampler(Sleeping()), 3, False)), 3 * 8 * 4),
        (DataLoader(Sleeping(), batch_size=None), 8 * 4),
        (DataLoader(Stream(shares=True), batch_size=5), None),
        (DataLoader(Sleeping(0), batch_size=5, collate_fn=in_a_list), None),
    ],
)
def test_the_size_of_a_batch(loader: DataLoader[Any], expected: int | None) -> None:
    assert batch_bytes(loader) == expected


def test_too_few_steps_are_no_measurement() -> None:
    outcome = outcome_of(reading_of([0.0] * LEAST_STEPS), {}, 0.0)  # the first step of a pass is left out
    assert outcome.measured is None
    assert outcome.problem.startswith("only 14 steps were measured")


def test_a_program_without_a_training_loader_has_no_measurement() -> None:
    reading = reading_of([])
    job = replace(reading.job, verdict=replace(reading.job.verdict, because="cannot judge: no loader"))
    assert outcome_of(Reading(job), {}, 0.0).problem == "cannot judge: no loader"


# ---- repeated data ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # a machine with two cores
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize(
    ("shares", "constant", "expected"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_the_first_batches_show_workers_that_repeat_the_data(
    shares: bool, constant: bool, expected: bool, num_workers: int
) -> None:
    first = FirstBatches(STACK, num_workers)
    loader = DataLoader(Stream(shares=shares, constant=constant), batch_size=4, num_workers=num_workers)
    is_complete = [first.add(batch) for batch in loader]
    assert is_complete.index(True) == num_workers + 1
    assert first.are_repeated is expected


def test_an_outcome_says_that_the_training_loader_repeats() -> None:
    reading = reading_of([0.0] * 40)
    assert outcome_of(reading, {}, 0.0, {STACK}).repeats
    assert not outcome_of(reading, {}, 0.0, {("validate.py:3 <module>",)}).repeats


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("shares",)])
def test_a_script_whose_workers_repeat_the_data_is_refused_with_the_fix(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text(STREAM)
    engine = ScriptEngine(Program("train.py", False, arguments), folder, planned(folder), None)
    try:
        if arguments:
            assert engine.facts().current.makers == 2
            return
        with pytest.raises(
            UserError, match=r"train\.py: the DataLoader made at train\.py:\d+: its iterable(.|\n)*get_worker_info"
        ):
            engine.facts()
    finally:
        engine.close()
