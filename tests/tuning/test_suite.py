"""The engine of `loaderlab tune`, with faked processes: trials, templates, failures, warnings, parity, Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from loaderlab.config import TEMPLATE, NativeLoader, SpdlLoader, TrainConfig, TuneConfig
from loaderlab.parity.status import SAME_WORK
from loaderlab.runs import launch
from loaderlab.runs.compared_loaders import ComparedLoader
from loaderlab.runs.job import Job, RunResult, RunWindow
from loaderlab.runs.job_start import JobStarter
from loaderlab.system.terminal import Terminal
from loaderlab.tracking.records import NOT_APPLICABLE
from loaderlab.tuning.candidate import DALI, NATIVE, SPDL, Branch, Candidate
from loaderlab.tuning.suite import SuiteEngine, TrialRun
from loaderlab.tuning.trial import Facts, Trial, TrialFailed
from tests.conftest import compose

NOW = Candidate(Branch(NATIVE), 2, 2, pin_memory=False, side_stream=False, persistent=True, start_method="fork")
ONE = replace(NOW, makers=1)
FACTS = Facts(NOW, (Branch(NATIVE), Branch(SPDL), Branch(DALI)), 100, 64)
WINDOW = RunWindow(40, 900.0, 12.0, (10.0, 14.0), 1.5, 2.5, {1: 950.0}, 1, 0.004, None)
FIGURES = {
    "time/step_ms": 70.0,
    "time/epoch_gap_ms": 30.0,
    "memory/worker_mib": 55.0,
    "rate/ceiling_samples_per_s": 1000.0,
}


class Processes:
    """Fakes the processes of trials and checks. ``results``: of the next trials; without one, a trial finishes."""

    def __init__(self) -> None:
        self.jobs: list[tuple[TrainConfig, Job]] = []
        self.results: list[RunResult | BaseException] = []
        self.templates: list[int] = []  # the template of each trial, numbered
        self.statuses: dict[str, str] = {}
        self.checked: list[list[str]] = []
        self.limits: list[str] = []  # the setting with the time limit of each trial and check
        self.num_renewed = 0

    def launch(
        self, config: TrainConfig, job: Job, _: JobStarter, method: str, *, quietly: bool, limit: str
    ) -> RunResult:
        assert (method, quietly) == (TEMPLATE, True)
        self.limits.append(limit)
        self.jobs.append((config, job))
        self.templates.append(self.num_renewed)
        result = self.results.pop(0) if self.results else None
        if isinstance(result, BaseException):
            raise result
        window = replace(WINDOW, first_step_at=time.time() + 1.0)
        return result or RunResult("an id", "FINISHED", FIGURES, window=window)

    def check_parity(
        self, arms: Sequence[ComparedLoader], _minutes: float, _: JobStarter, _method: str, *, quietly: bool, limit: str
    ) -> dict[str, dict[str, Any]]:
        assert quietly
        self.limits.append(limit)
        self.checked.append([arm.name for arm in arms])
        return {arm.key: {"loader": arm.name, "status": self.statuses.get(arm.name, SAME_WORK)} for arm in arms}


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    fake = Processes()
    monkeypatch.setattr(launch, "launch", fake.launch)
    monkeypatch.setattr(launch, "check_parity", fake.check_parity)
    monkeypatch.setattr(launch, "call", lambda *_: FACTS)
    renew = JobStarter.renew

    def renewed(starter: JobStarter) -> None:
        fake.num_renewed += 1
        renew(starter)

    monkeypatch.setattr(JobStarter, "renew", renewed)
    return fake


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def engine(processes: Processes, terminal: Terminal, failures: list[str]) -> SuiteEngine:
    overrides = ["batch_size=64", "tune.minutes=2"]
    made = SuiteEngine(compose(["batch_size=64"]), TuneConfig(), overrides, terminal)
    made.record_under(TrialRun("parent", failures.append))
    return made


def test_a_trial_is_a_run_under_the_tuners_run(engine: SuiteEngine, processes: Processes) -> None:
    measured = engine.run(Trial(ONE, "predicted to feed the device", 2.0, probes=True))
    config, job = processes.jobs[0]
    assert config.loader == NativeLoader(num_workers=1)
    assert (config.measure.seconds, config.measure.ceiling, config.evaluate) == (2.0, True, False)
    assert (job.name, job.parent_id) == ("1 worker", "parent")
    assert job.overrides == ("batch_size=64", "loader.num_workers=1", "loader.prefetch_factor=2")
    assert job.tags == {
        "tune.candidate": "loader.num_workers=1 loader.prefetch_factor=2",
        "tune.reason": "predicted to feed the device",
        "tune.round": "0",
    }
    assert (measured.rate, measured.starved_pct, measured.starved_interval) == (900.0, 12.0, (10.0, 14.0))
    assert (measured.step_ms, measured.num_steps, measured.gap_ms, measured.late_steps) == (70.0, 40, 30.0, 2.5)
    assert (measured.ceiling, measured.ceiling_by_threads, measured.contended) == (1000.0, {1: 950.0}, None)
    assert (measured.worker_mib, measured.cpu_s_per_sample, measured.run_id) == (55.0, 0.004, "an id")
    assert measured.start_s == pytest.approx(1.0, abs=0.5)


def test_no_template_serves_two_runs_of_the_same_settings(engine: SuiteEngine, processes: Processes) -> None:
    """They would share its hash seed and memory layout, so that the rounds would differ less than fresh processes do."""
    for candidate, number in ((NOW, 0), (ONE, 0), (NOW, 1), (ONE, 1), (ONE, 2), (NOW, 2), (NOW, 2)):
        engine.run(Trial(candidate, "", 1.0, round=number))
    served = [(template, job.arm) for template, (_, job) in zip(processes.templates, processes.jobs, strict=True)]
    assert len(set(served)) == len(served)
    assert len(set(processes.templates)) == 4  # and it serves all settings of a round


@pytest.mark.parametrize(
    ("result", "reason", "is_recorded"),
    [
        (RunResult("id", "FAILED", error="a reason\nand more"), "a reason", True),
        (RunResult("", "KILLED", error="its process was ended by SIGKILL"), "its process was ended by SIGKILL", True),
        (RunResult("id", "FINISHED"), "no step was measured", True),
        (RunResult("", NOT_APPLICABLE, error="needs a GPU"), "needs a GPU", False),
    ],
)
def test_a_trial_that_dies_costs_only_itself(
    result: RunResult, reason: str, is_recorded: bool, engine: SuiteEngine, processes: Processes, failures: list[str]
) -> None:
    processes.results = [result]
    with pytest.raises(TrialFailed, match=f"^{reason}$"):
        engine.run(Trial(ONE, "", 1.0))
    assert failures == [reason] * is_recorded  # the run of a dead process is closed
    assert engine.run(Trial(ONE, "", 1.0)).rate == 900.0


def test_settings_that_contradict_each_other_are_a_failed_trial(engine: SuiteEngine, processes: Processes) -> None:
    no_threads = Candidate(Branch(SPDL), 0)
    with pytest.raises(TrialFailed, match="loader.num_threads=0: must be at least 1"):
        engine.run(Trial(no_threads, "", 1.0))
    assert processes.jobs == []


@pytest.mark.parametrize(
    ("override", "expected"), [("sweep.job_minutes=null", "tune.minutes"), ("sweep.job_minutes=2", "sweep.job_minutes")]
)
def test_a_time_limit_is_named_by_the_setting_that_has_it(
    override: str, expected: str, processes: Processes, terminal: Terminal
) -> None:
    engine = SuiteEngine(compose([override]), TuneConfig(), [], terminal)
    engine.record_under(TrialRun("parent", lambda _: None))
    engine.run(Trial(ONE, "", 1.0))
    engine.refuses(Branch(SPDL))
    assert processes.limits == [expected, "tune.minutes"]


def test_ctrl_c_in_a_trial_closes_its_run(engine: SuiteEngine, processes: Processes, failures: list[str]) -> None:
    processes.results = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        engine.run(Trial(ONE, "", 1.0))
    assert failures == ["interrupted"]


def test_each_warning_of_trials_is_shown_once(engine: SuiteEngine, processes: Processes, terminal: Terminal) -> None:
    done = RunResult("id", "FINISHED", FIGURES, window=WINDOW, warnings=("little memory", "a slow disk"))
    processes.results = [done, replace(done, warnings=("a slow disk",))]
    engine.run(Trial(NOW, "", 1.0))
    engine.run(Trial(ONE, "", 1.0))
    assert terminal.warnings == ["little memory", "a slow disk"]


def test_other_loaders_must_do_the_same_work(engine: SuiteEngine, processes: Processes) -> None:
    processes.statuses = {"dali": "unlike work: pixels differ"}
    assert engine.refuses(Branch(SPDL)) == ""
    assert engine.refuses(Branch(DALI)) == "unlike work: pixels differ"
    assert engine.refuses(Branch(DALI)) == "unlike work: pixels differ"
    assert processes.checked == [["native", "spdl"], ["dali"]]  # each once


@pytest.mark.parametrize(
    ("now", "then", "refusal"),
    [
        ("unlike work: pixels differ", SAME_WORK, "the current loader does other work than the reference"),
        ("not checked: an error", SAME_WORK, ""),
        (SAME_WORK, "not checked: it failed", "not checked: it failed"),
        ("not checked: no ids", "not checked: no ids", "its work cannot be compared with the current loader's"),
        ("unlike work: pixels differ", "unlike work: pixels differ", "its work cannot be compared"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    now: str, then: str, refusal: str, engine: SuiteEngine, processes: Processes
) -> None:
    processes.statuses = {"native": now, "spdl": then}
    refused = engine.refuses(Branch(SPDL))
    assert refused.startswith(refusal)
    assert bool(refused) is bool(refusal)


def test_the_compared_loader_has_the_settings_of_the_command(
    engine: SuiteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = engine._compared(Branch(SPDL))
    assert isinstance(compared.config.loader, SpdlLoader)
    assert compared.config.batch_size == 64
