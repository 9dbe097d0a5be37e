"""The gate ``fail_if.utilization_below`` on a run, a sweep and a comparison."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from loaderlab.cli import train
from loaderlab.cli.compose import compose as compose_compare
from loaderlab.cli.compose import typed
from loaderlab.cli.main import main
from loaderlab.config import PROJECT, CompareConfig, GateFailed, GateNotJudged, TrainConfig
from loaderlab.metrics import EFFICIENCY_PCT, RATE, UTILIZATION_PCT
from loaderlab.runs import run
from loaderlab.runs.job import RunResult
from loaderlab.runs.utilization_gate import check_run
from loaderlab.system.program import command
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from tests.conftest import compose
from tests.launched import Launched

A100 = "accelerator=resnet50_a100"
GATE = "fail_if.utilization_below=0.9"


# ---- one run ------------------------------------------------------------------------------------------------


def judge(terminal: Terminal, percent: float | None, *overrides: str) -> None:
    metric = UTILIZATION_PCT if A100 in overrides else EFFICIENCY_PCT
    figures = {RATE: 100.0} if percent is None else {RATE: 100.0, metric: percent}
    check_run(compose([*overrides]), "a run", figures, terminal)


def test_a_run_passes(terminal: Terminal) -> None:
    judge(terminal, 95.3, GATE, A100)
    judge(terminal, 90.0, GATE)
    judge(terminal, 10.0, A100)  # has no gate
    assert terminal.said == [
        f"{GATE}: passed: a run reaches 95.3 % of the emulated accelerator's requested rate",
        f"{GATE}: passed: a run reaches 90.0 % of the ceiling",
    ]


@pytest.mark.parametrize(("overrides", "whole"), [((A100,), "the emulated acc.*"), ((), "the ceiling")])
def test_a_run_fails(terminal: Terminal, overrides: tuple[str, ...], whole: str) -> None:
    with pytest.raises(GateFailed, match=f"^{GATE}: not reached: a run reaches 89.9 % of {whole}$"):
        judge(terminal, 89.9, GATE, *overrides)
    assert terminal.said == []


def test_a_run_without_a_ceiling_cannot_be_judged(terminal: Terminal) -> None:
    message = "the ceiling was not measured, because .*too short: a run. The gate cannot pass. .*: measure.ceiling=true"
    with pytest.raises(GateNotJudged, match=f"^{GATE}: {message}"):
        judge(terminal, None, GATE)


@pytest.mark.parametrize("accelerator", [[A100], []], ids=["emulated", "real"])
def test_the_gate_of_a_run_that_is_too_short_refers_to_its_warning(terminal: Terminal, accelerator: list[str]) -> None:
    """The warning depends on the data, so a second suggestion would contradict it."""
    with pytest.raises(GateNotJudged) as raised:
        check_run(compose([GATE, *accelerator]), "a run", {}, terminal)
    assert str(raised.value) == (
        f"{GATE}: no throughput was measured, because the run was too short: a run. The gate cannot pass. The warning above has "
        "a setting that makes it long enough"
    )


def test_a_run_without_a_loader_does_not_start(store_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", TrainConfig, train.job, [f"tracking.uri={store_uri}", "loader=replay", GATE]) == 2
    assert f"error: {GATE}: loader=replay loads nothing" in capsys.readouterr().err
    assert open_store(compose([f"tracking.uri={store_uri}"]).tracking, PROJECT).runs() == []


@pytest.mark.parametrize(("percent", "code"), [(95.0, 0), (50.0, 3), (None, 3)])
def test_the_exit_code_of_a_run(percent: float | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {} if percent is None else {RATE: 100.0, UTILIZATION_PCT: percent}
    monkeypatch.setattr(run, "run", lambda *_: RunResult("id", "FINISHED", figures))
    assert main("train", TrainConfig, train.job, [A100, GATE]) == code


def test_a_failed_run_keeps_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store_uri: str) -> None:
    arguments = [f"tracking.uri={store_uri}", "data=imagefolder", f"data.root={tmp_path}/nosuch", GATE]
    assert main("train", TrainConfig, train.job, arguments) == 1


class Slow(Dataset[tuple[torch.Tensor, int]]):
    """Samples that take 20 ms each."""

    classes = ("a", "b")

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(0.02)
        return torch.zeros(3), index % 2


def tiny() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def test_a_real_run_is_recorded_before_it_fails_the_gate(store_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "data=custom data.target={0}:Slow data.num_classes=2 model=custom model.target={0}:tiny"
    arguments = [f"tracking.uri={store_uri}", *settings.format(__name__).split(), "steps=20", "batch_size=4"]
    arguments += ["measure=bare", "measure.ceiling=true", "measure.probe_s=1", "loader.num_workers=0", "device=cpu"]
    code = main("train", TrainConfig, train.job, [*arguments, GATE])
    assert code == 3
    error = capsys.readouterr().err
    assert error.startswith(f"\nerror: {GATE}: not reached: custom custom native fp32 reaches ")
    (recorded,) = open_store(compose([f"tracking.uri={store_uri}"]).tracking, PROJECT).runs()
    assert recorded.status == "FINISHED"
    assert recorded.figures[EFFICIENCY_PCT] < 90


# ---- a sweep and a comparison -------------------------------------------------------------------------------


def swept(store_uri: str, *arguments: str) -> int:
    """The exit code of a sweep over workers."""
    axes = ["-m", f"tracking.uri={store_uri}", "loader.num_workers=0,2", *arguments]
    return main("train", TrainConfig, lambda *_: None, axes)


def compared(store_uri: str, *arguments: str) -> int:
    from loaderlab.cli import compare

    return main("compare", CompareConfig, compare.job, [f"tracking.uri={store_uri}", *arguments])


@pytest.mark.parametrize("accelerator", [[A100], []], ids=["emulated", "real"])
def test_the_gate_of_a_sweep_and_of_its_comparison(
    accelerator: list[str], store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    launched.utilization = {"workers=0": 45.0, "workers=2": 97.0}
    assert swept(store_uri, *accelerator, GATE) == 3
    error = capsys.readouterr().err
    assert error.startswith(f"\nerror: {GATE}: not reached: ")
    assert "num_workers=0 reaches 45.0 % of the " in error
    assert "num_workers=2" not in error
    store = open_store(compose([f"tracking.uri={store_uri}"]).tracking, PROJECT)
    parent = store.newest_sweep()
    assert parent is not None
    assert (parent.status, "error" in parent.tags) == ("FINISHED", False)  # complete, whatever the gate says
    assert compared(store_uri, GATE) == 3
    assert "num_workers=0 reaches 45.0 %" in capsys.readouterr().err
    assert compared(store_uri, "fail_if.utilization_below=0.4") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    devices = (
        "emulated accelerators (share of the requested rate)" if accelerator else "real devices (share of the ceiling)"
    )
    assert last.startswith(f"fail_if.utilization_below=0.4: passed by 2 arms on {devices}; the lowest: ")


@pytest.mark.slow
def test_a_resumed_sweep_can_have_another_gate(
    store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    launched.utilization = {"workers": 80.0}
    assert swept(store_uri, A100, GATE) == 3
    again = ["-m", f"tracking.uri={store_uri}", "resume=latest"]
    assert main("train", TrainConfig, lambda *_: None, again) == 3  # the recorded gate
    assert main("train", TrainConfig, lambda *_: None, [*again, "fail_if.utilization_below=0.7"]) == 0
    assert "fail_if.utilization_below=0.7: passed by 2 arms" in capsys.readouterr().out
    assert len(launched.names) == 2


@pytest.mark.slow
def test_a_failed_job_is_reported_before_the_gate(
    store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]
) -> None:
    launched.utilization, launched.ends = {"workers=0": 45.0}, {"workers=2": "FAILED"}
    assert swept(store_uri, A100, GATE) == 1
    assert "1 of 2 jobs did not finish" in capsys.readouterr().err
    assert compared(store_uri, GATE) == 3
    error = capsys.readouterr().err
    assert "not measured: emulated resnet50_a100 loader.num_workers=2: failed" in error
    assert f"To run them again: {command('train')} -m resume=latest tracking.uri={store_uri}" in error


def record(store_uri: str, status: str, percent: float | None, *overrides: str) -> None:
    """A recorded run with a rate if it has a utilization."""
    config = compose([f"tracking.uri={store_uri}", A100, *overrides])
    run = open_store(config.tracking, PROJECT).start("a run", None, {"arm": "a run", "device.type": "emulated"})
    run.params(config.recorded())
    if percent is not None:
        run.metric(RATE, 100.0, 1)
        run.metric(UTILIZATION_PCT, percent, 1)
    run.end(status)


def test_a_comparison_of_all_runs_leaves_out_interrupted_ones(
    store_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(store_uri, "KILLED", None, "repeat=3", "seed=7")
    record(store_uri, "KILLED", 12.0)
    record(store_uri, "FINISHED", 95.0)
    assert compared(store_uri, "runs=all", GATE, "fail_if.rate_below=0.9") == 3  # there is no baseline
    capsys.readouterr()
    assert compared(store_uri, "runs=all", GATE) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert lines[0] == (
        f"{GATE}: 2 runs that did not finish are left out, since other runs with the same settings finished"
    )
    assert lines[1].startswith(f"{GATE}: passed by 1 arm on emulated accelerators")


def test_an_arm_without_a_finished_run_does_not_pass(store_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    record(store_uri, "FAILED", None, "loader.num_workers=7")
    record(store_uri, "FINISHED", 95.0)
    assert compared(store_uri, "runs=all", GATE) == 3
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {GATE}: not measured: a run: failed, so the gate cannot pass. To leave them out, ")
    typed_instead = error.partition("type instead of runs=all: ")[2]
    assert compared(store_uri, *shlex.split(typed_instead), GATE) == 0


@pytest.mark.slow
def test_a_sweep_that_cannot_be_judged(store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    launched.utilization = {"workers=0": 95.0}
    assert swept(store_uri, GATE) == 3
    assert "the ceiling was not measured, because" in capsys.readouterr().err
    launched.ends = {"workers": "not applicable here"}
    assert swept(store_uri, GATE, "batch_size=8") == 3
    assert f"{GATE}: no job was measured, so the gate cannot pass" in capsys.readouterr().err


@pytest.mark.slow
def test_both_gates_of_a_comparison(store_uri: str, launched: Launched, capsys: pytest.CaptureFixture[str]) -> None:
    launched.utilization = {"workers": 95.0}
    assert swept(store_uri, A100, "repeat=1,2,3") == 0
    assert compared(store_uri, GATE, "fail_if.rate_below=0.5") == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.partition(":")[0] for line in lines] == ["fail_if.rate_below=0.5", GATE]


def test_the_limit_of_a_comparison_is_a_share() -> None:
    with pytest.raises(ValueError, match="fail_if.utilization_below=90.0: is a share and must be 0 to 1"):
        typed(compose_compare("compare", ["fail_if.utilization_below=90"]), CompareConfig)
