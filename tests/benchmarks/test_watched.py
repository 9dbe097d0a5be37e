"""The pure parts of the benchmarks of ``loaderlab watch``: the planted times, the truth, the table."""

from __future__ import annotations

import math
import subprocess
import time
import venv
from pathlib import Path

import pytest

from benchmarks.harness import watched_packages
from benchmarks.harness.watched_cases import CASES, Case, all_steps_pct, simulated_share, truth_of
from benchmarks.harness.watched_coin import summary
from benchmarks.harness.watched_overhead import BARE, command_lines, interval, take_rounds
from benchmarks.harness.watched_runs import LOADERLAB, MARKED, TRACEML, Result, append, read, tools_of
from benchmarks.harness.watched_table import is_right, line, table
from benchmarks.watched.planted import SAMPLES_NS, Stopwatch


def case(workers: int = 0, accumulate: int = 1, framework: str = "plain_loop") -> Case:
    return Case(framework, workers, accumulate, 35.0)


# ---- what is planted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "batch_ms", "share"),
    [
        (1, 20.0, 0.5),  # a batch every 20 ms for a step of 10 ms
        (2, 20.0, 0.0),  # a batch every 10 ms
        (2, 40.0, 0.5),
        (1, 10.0, 0.0),
    ],
)
def test_workers_that_take_turns(workers: int, batch_ms: float, share: float) -> None:
    assert simulated_share(workers, 1, batch_ms, 10.0, at_once=False) == pytest.approx(share, abs=1e-9)


def test_batches_fetched_at_once_are_waited_for_though_the_worker_is_fast_enough() -> None:
    """Two of four batches are ready; the worker makes the other two while the loop waits."""
    assert simulated_share(1, 4, 10.0, 10.0, at_once=False) == pytest.approx(0.0, abs=1e-9)
    assert simulated_share(1, 4, 10.0, 10.0, at_once=True) == pytest.approx(20 / 60)


@pytest.mark.parametrize("planted", CASES, ids=lambda planted: planted.name)
def test_the_planted_times_give_the_share(planted: Case) -> None:
    assert planted.formula_pct(planted.batch_ms, planted.work_ms) == pytest.approx(planted.share_pct, abs=0.5)
    assert planted.steps % 2 == 0  # two epochs
    assert planted.sample_ms > 0


def test_all_cases() -> None:
    assert len({planted.name for planted in CASES}) == len(CASES) == 72


# ---- the truth ---------------------------------------------------------------------------------------------------------


def cycle(wait_ms: float, work_ms: float, samples_ms: float = 0.0) -> dict[str, float]:
    return {"wait_ms": wait_ms, "work_ms": work_ms, "samples_ms": samples_ms, "position": 0}


def epoch(*cycles: dict[str, float]) -> list[dict[str, float]]:
    """An epoch whose first step is different."""
    return [{**entry, "position": position} for position, entry in enumerate([cycle(900, 1), *cycles])]


def test_the_truth_leaves_out_warmup_and_starts_of_epochs() -> None:
    truth = truth_of(case(workers=1), [*epoch(*[cycle(900, 1)] * 4, cycle(30, 70)), *epoch(cycle(50, 50))])
    assert truth.share_pct == pytest.approx(40.0)
    assert truth.num_steps == 2


def test_a_step_that_only_reaches_the_end_of_the_data_is_left_out() -> None:
    cycles = [*epoch(*[cycle(30, 70)] * 9, cycle(900, 1)), *epoch(*[cycle(30, 70)] * 9, cycle(900, 1))]
    for framework, accumulate, is_left_out in (
        ("hf_trainer", 1, True),
        ("accelerate_loop", 1, True),
        ("hf_trainer", 4, False),
        ("plain_loop", 1, False),
    ):
        share = truth_of(case(1, accumulate, framework), cycles).share_pct
        assert (share == pytest.approx(30.0)) is is_left_out, framework


def test_the_whole_lookahead_of_the_workers_is_warmup() -> None:
    assert truth_of(case(workers=4), epoch(*[cycle(900, 1)] * 7, cycle(50, 50))).num_steps == 1


def test_workers_start_together_so_a_step_for_each_is_left_out() -> None:
    cycles = [*epoch(*[cycle(900, 1)] * 4), *epoch(cycle(900, 1), cycle(50, 50))]
    assert truth_of(case(workers=2), cycles).share_pct == pytest.approx(50.0)


def test_without_workers_the_truth_is_the_time_in_the_dataset() -> None:
    cycles = epoch(*[cycle(30, 70, samples_ms=20)] * 8)
    assert truth_of(case(), cycles).share_pct == pytest.approx(20.0)
    assert all_steps_pct(case(), cycles[1:]) == pytest.approx(20.0)
    assert all_steps_pct(case(workers=1), cycles[1:]) == pytest.approx(30.0)


class Clock:
    """Replaces `time.perf_counter_ns`."""

    now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, ms: int) -> None:
        self.now += ms * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", clock)
    return clock


def test_stopwatch(clock: Clock) -> None:
    """A step of two batches, with an evaluation after it."""
    stopwatch = Stopwatch()
    stopwatch.epoch_begins()
    for wait_ms, work_ms, last in ((3, 10, False), (4, 20, True)):
        clock.pass_ms(wait_ms)
        SAMPLES_NS[0] += 2_000_000
        stopwatch.batch_arrived()
        clock.pass_ms(work_ms)
        if last:
            stopwatch.optimizer_stepped()
            with stopwatch.evaluation():
                clock.pass_ms(1000)
                SAMPLES_NS[0] += 900_000_000
            clock.pass_ms(1)
        stopwatch.batch_requested()
    clock.pass_ms(5)
    SAMPLES_NS[0] += 5_000_000
    stopwatch.batch_arrived()
    assert [vars(entry) for entry in stopwatch.cycles] == [
        {"position": 0, "wait_ms": 7.0, "work_ms": 31.0, "samples_ms": 4.0}
    ]
    assert stopwatch._cycle is not None
    assert (stopwatch._cycle.samples_ms, stopwatch._cycle.position) == (5.0, 1)


def test_a_new_epoch_drops_an_open_step(clock: Clock) -> None:
    stopwatch = Stopwatch()
    for _ in range(2):
        stopwatch.epoch_begins()
        stopwatch.batch_arrived()
        stopwatch.optimizer_stepped()
        stopwatch.batch_requested()
        clock.pass_ms(9)  # the end of the data
    assert [entry.position for entry in stopwatch.cycles] == [0, 0]
    assert sum(entry.wait_ms for entry in stopwatch.cycles) == 0


# ---- the results -------------------------------------------------------------------------------------------------------


def result(measured: float, tool: str = LOADERLAB, repeat: int = 1) -> Result:
    """A run with a true share of 35 % after the warm-up, and of 40 % over all steps."""
    cycles = [cycle(0, 100, 45)] * 5 + [cycle(0, 100, 35)] * 5
    cycles = [{**entry, "position": position} for position, entry in enumerate(cycles)]
    return Result(case().name, repeat, tool, cycles, measured, 60, "starved", 7.0)


@pytest.mark.parametrize(
    ("measured", "right"), [(35.0, True), (38.0, True), (38.1, False), (31.9, False), (math.nan, False)]
)
def test_the_exit_code_is_about_three_points_and_loaderlab_alone(measured: float, right: bool) -> None:
    assert is_right([result(35.0, repeat=2), result(measured), result(90.0, TRACEML)]) is right


def test_no_result_is_not_right() -> None:
    assert not is_right([])


def test_table() -> None:
    text = table([result(36.0), result(34.5, repeat=2), result(math.nan, TRACEML)])
    assert "| loaderlab | 2 | 35.0 | 25.1 | 35.2 | -0.5 to +1.0 | 60 | ok |" in text
    assert "| traceml | 1 | 40.0 | 25.1 | - | - | 60 | WRONG |" in text
    assert "loaderlab: within 3 points in 2 of 2 runs, 0 without a share; the largest difference is 1.0 points" in text
    assert text.endswith("traceml: within 3 points in 0 of 1 runs, 1 without a share")


def test_line_of_a_run_without_a_share() -> None:
    assert "nothing reported" in line(result(math.nan))


def test_results_are_continued(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read(path) == []
    append(path, result(36.0))
    append(path, result(36.0, repeat=2))
    assert [entry.key for entry in read(path)] == [(case().name, 1, LOADERLAB), (case().name, 2, LOADERLAB)]


def test_traceml_gets_its_own_call_where_it_needs_one() -> None:
    assert tools_of(case(), traceml=False) == [LOADERLAB]
    assert tools_of(case(), traceml=True) == [LOADERLAB, TRACEML, MARKED]
    assert tools_of(case(framework="hf_trainer"), traceml=True) == [LOADERLAB, TRACEML]


def test_an_environment_is_complete_only_with_its_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
    monkeypatch.setattr(
        venv,
        "create",
        lambda folder, **_: watched_packages._packages(folder).mkdir(parents=True, exist_ok=True),
    )
    for _ in range(2):
        watched_packages.installed(tmp_path, traceml=False)
    assert len(commands) == 1
    assert set(watched_packages.FRAMEWORKS) <= set(commands[0])
    monkeypatch.setattr(watched_packages, "FRAMEWORKS", ("transformers==0",))
    watched_packages.installed(tmp_path, traceml=True)
    assert [command[-1] for command in commands[1:]] == ["transformers==0", *watched_packages.TRACEML]


# ---- overhead ----------------------------------------------------------------------------------------------------------


def test_steps_that_the_machine_interrupted_are_left_out() -> None:
    steps = [(True, 2_000_000), (False, 1_000_000)] * 10 + [(True, 90_000_000)]
    assert summary(steps) == {
        "on_ms": 2.0,
        "off_ms": 1.0,
        "on_median_ms": 2.0,
        "off_median_ms": 1.0,
        "left_out": 1,
    }


def test_interval() -> None:
    assert interval([1.0, 2.0, 3.0]).mean == 2.0
    assert interval([1.0, 2.0, 3.0]).high == pytest.approx(2.0 + 4.303 / math.sqrt(3), abs=1e-3)
    assert math.isnan(interval([1.0]).low)


def test_commands_run_in_turns_and_are_paired() -> None:
    order: list[str] = []
    seconds = iter([3.0, 4.0, 4.5, 3.1])

    def run(arm: str) -> float:
        order.append(arm)
        return next(seconds)

    results = take_rounds([BARE, "other"], 2, run, lambda _: None)
    assert order == [BARE, "other", "other", BARE]
    assert results == {BARE: [3.0, 3.1], "other": [4.0, 4.5]}
    assert "adds 1.20" in command_lines(results)[1]
