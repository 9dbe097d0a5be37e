"""The gate ``fail_if.utilization_below`` on a run, a sweep and a comparison."""

from __future__ import annotations

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
from loaderlab.metrics import EFFICIENCY_PCT, UTILIZATION_PCT
from loaderlab.runs import run
from loaderlab.runs.job import RunResult
from loaderlab.runs.utilization_gate import check_run
from loaderlab.system.terminal import Terminal
from loaderlab.tracking import open_store
from tests.conftest import compose
from tests.launched import Launched

A100 = "accelerator=resnet50_a100"
GATE = "fail_if.utilization_below=0.9"


# ---- one run ------------------------------------------------------------------------------------------------


def judge(terminal: Terminal, percent: float | None, *overrides: str) -> None:
    metric = UTILIZATION_PCT if A100 in overrides else EFFICIENCY_PCT
    figures = {} if percent is None else {metric: percent}
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            (A100,),
            "no throughput was measured, because the run was too short: a run. .* example: steps=200 epochs=auto",
        ),
        (
            (),
            "the ceiling was not measured, because .*too short: a run. The gate cannot pass. .*: measure.ceiling=true",
        ),
        (("loader=replay",), "loader=replay loads nothing, so there is nothing to judge. Type for example: loader=nat"),
    ],
)
def test_a_run_that_cannot_be_judged(terminal: Terminal, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(GateNotJudged, match=f"^{GATE}: {message}"):
        judge(terminal, None, GATE, *overrides)


@pytest.mark.parametrize(("percent", "code"), [(95.0, 0), (50.0, 3), (None, 3)])
def test_the_exit_code_of_a_run(percent: float | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {} if percent is None else {UTILIZATION_PCT: percent}
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
    assert last.startswith("fail_if.utilization_below=0.4: passed by 2 arms; the lowest: ")


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
