"""Settings that are refused because of what was typed: exit code 2, and no run is started."""

from __future__ import annotations

import pytest

from loaderlab.cli import doctor, train
from loaderlab.cli.main import main
from loaderlab.config import TrainConfig
from loaderlab.runs import doctor as checks
from loaderlab.runs import run

A100 = "accelerator=resnet50_a100"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            f"{A100} precision=bf16",
            f"precision=bf16: has no effect with {A100}: an emulated step computes nothing. Type: ",
        ),
        (f"{A100} resume=latest", f"resume=latest: {A100} is emulated: it has no weights, so no checkpoint can be "),
        (
            "accelerator.step_ms=20",
            "accelerator.step_ms=20: has no effect with accelerator=none. Type for example: acc",
        ),
        ("accelerator=custom", "accelerator.step_ms=null: accelerator=custom needs the time of a step, or its rate. "),
    ],
)
@pytest.mark.parametrize("command", [train, doctor], ids=["train", "doctor"])
def test_a_refused_setting(
    overrides: str, message: str, command: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((run, "run"), (checks, "examine")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("no run may start"))
    job = train.job if command is train else doctor.job
    assert main("train", TrainConfig, job, overrides.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"\nerror: {message}")
    assert len(printed.err.strip().splitlines()) == 1
