"""Wrong input gives one message that names the setting, the value and what to type."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from loaderlab import config
from loaderlab.cli.errors import explain
from loaderlab.cli.main import main
from tests.conftest import compose

BAD = [  # overrides, texts in the message
    ("loader.side_stream=true loader.non_blocking=false", ["loader.side_stream=true", "loader.side_stream=auto"]),
    ("data.max_skipped=1.5", ["data.max_skipped=1.5", "must be 0 to 1"]),
    ("data.on_error=ignore", ["data.on_error=ignore", "error, skip"]),
    ("loadr=dali", ["loadr", "no such setting", "Did you mean loader?"]),
    ("loader=dalii", ["loader=dalii", "no such choice", "Did you mean dali?", "native"]),
    ("nosuch/group=1", ["nosuch"]),
    ("measure=nosuch", ["measure=nosuch", "bare, default"]),
    ("accelerator=nosuch", ["accelerator=nosuch", "no such choice", "none, resnet50_a100, resnet50_h100"]),
    ("accelerator.step_m=3", ["of accelerator=none. Did you mean accelerator.step_ms?"]),
    ("accelerator=custom accelerator.step_m=3", ["of accelerator=custom. Did you mean accelerator.step_ms?"]),
    ("model=timm model.nam=3", ["model.nam: there is no such setting. Did you mean model.name?"]),
    ("measure.probes=1", ["measure.probes: there is no such setting. Did you mean measure.probe_s?"]),
    (
        "measure.contention=true measure.ceiling=false",
        ["measure.contention=true", "Type for example: measure.contention=auto"],
    ),
    ("measure.cold=true measure.ceiling=false", ["measure.cold=true", "Type for example: measure.ceiling=true"]),
    ("measure.seconds=0", ["measure.seconds=0.0: must be above 0", "measure.seconds=3"]),
    ("measure.seconds=2 steps=9", ["measure.seconds=2: cannot be combined with steps=9", "or steps=null"]),
    ("measure.seconds=2 epochs=9", ["measure.seconds=2: cannot be combined with epochs=9", "or epochs=auto"]),
    ("measure.seconds=2 resume=latest", ["measure.seconds=2: cannot be combined with resume=latest", "or resume=null"]),
    ("measure.seconds=2 launch=local", ["measure.seconds=2", "each rank of launch=local", "or launch=none"]),
    ("measure.epoch_steps=0", ["measure.epoch_steps=0", "must be at least 1"]),
    ("measure.probe_s=-1", ["measure.probe_s=-1.0", "must be at least 0"]),
    ("measure.parity_samples=0", ["measure.parity_samples=0", "must be at least 1"]),
    ("measure.profile_steps=0", ["measure.profile_steps=0", "must be at least 1"]),
    ("measure.workers_s=0.1", ["measure.workers_s=0.1", "must be at least 0.5"]),
    ("measure.workers_s=61", ["measure.workers_s=61", "must be at most 60", "measure.workers_s=5"]),
    ("measure.workers=true measure.profile=true", ["measure.workers=true", "measure.profile=false"]),
    ("loader.num_worker=2", ["loader.num_worker", "loader=native", "Did you mean loader.num_workers?"]),
    ("loader=dali loader.num_workers=2", ["loader=dali", "belongs to loader=native", "loader.num_threads"]),
    ("loader.num_threads=2", ["loader=native", "belongs to loader=spdl and dali"]),
    ("loader=spdl loader.num_threads=0", ["loader.num_threads=0", "at least 1 or auto"]),
    ("loader=spdl loader.prefetch=2", ["loader=spdl", "loader.buffer_size"]),
    ("loader=resident loader.decoder=opencv", ["loader.decoder=opencv", "torchcodec, pillow"]),
    ("launch.num_ranks=2", ["launch.num_ranks: launch=none has no settings", "Type: launch=local launch.num_ranks=2"]),
    ("+launch.num_ranks=4", ["launch.num_ranks: launch=none has no settings", "Type: launch=local launch.num_ranks=4"]),
    ("launch.num_nodes=3", ["launch=nodes and slurm have this one", "Type: launch=nodes launch.num_nodes=3"]),
    ("launch.nosuch=1", ["launch.nosuch: there is no such setting of launch=none. It has no settings"]),
    ("launch=local launch.num_nodes=2", ["of launch=local (it belongs to launch=nodes and slurm)", "launch.num_ranks"]),
    (
        "data=vectors model=feedforward data.num_samples=100 launch=local launch.num_ranks=4",
        ["batch_size=64", "100 training samples, 25 for each of 4 ranks", "Type: batch_size=25, or drop_last=false"],
    ),
    ("data=vectors model=feedforward data.num_samples=50", ["there are 50 training samples, and drop_last=true drops"]),
    (
        "data=vectors model=feedforward data.num_samples=12 batch_size=1 launch=local launch.num_ranks=13",
        ["launch.num_ranks=13: there are only 12 training samples. Type for example: launch.num_ranks=12"],
    ),
    (
        "data=photos launch=nodes launch.num_nodes=3000 launch.rendezvous=a:1",
        ["launch=nodes with 3000 ranks: there are only 2000 training samples. Type: at most 2000 ranks"],
    ),
    ("+nosuch=1", ["nosuch", "no such setting", "batch_size"]),
    ("+data.nosuch=1", ["data.nosuch", "data=digits", "data.image_px"]),
    ("+data.transform.nosuch=1", ["data.transform.nosuch", "data.transform.flip"]),
    ("nosuch.deep=1", ["nosuch", "no such setting"]),
    ("batch_size=abc", ["batch_size", "'abc'", "Integer", "batch_size=64"]),
    ("accelerator=custom accelerator.step_ms=abc", ["'abc'", "Float", "'accelerator.step_ms=20'"]),
    ("accelerator.samples_per_s=abc", ["'abc'", "Float", "'accelerator.samples_per_s=2000'"]),
    ("steps=many", ["'many'", "Integer", "'steps=200'"]),
    ("batch_size=0", ["batch_size=0", "at least 1", "batch_size=1"]),
    ("batch_size=-3", ["batch_size=-3", "at least 1"]),
    ("epochs=2.5", ["epochs=2.5", "whole number or auto"]),
    ("epochs=0", ["epochs=0", "at least 1"]),
    ("epochs=2 steps=5", ["steps=5", "cannot be combined with epochs=2"]),
    ("loader.num_workers=-1", ["loader.num_workers=-1", "at least 0"]),
    ("loader.num_workers=many", ["loader.num_workers=many", "whole number or auto"]),
    ("loader.pin_memory=yess", ["loader.pin_memory=yess", "true, false or auto"]),
    ("loader.decoder=opencv", ["loader.decoder=opencv", "torchcodec, pillow"]),
    ("loader.start_method=thread", ["fork, spawn, forkserver"]),
    (
        "loader.num_workers=0 loader.persistent_workers=true",
        ["loader.persistent_workers=true", "no workers to keep", "num_workers=2"],
    ),
    ("loader.num_workers=0 loader.prefetch_factor=4", ["loader.prefetch_factor=4", "no batches are prepared ahead"]),
    ("loader.num_workers=0 loader.start_method=spawn", ["loader.start_method=spawn"]),
    ("loader=dali loader.hw_decoder_load=2", ["loader.hw_decoder_load=2", "0 to 1"]),
    ("loader=dali loader.decode=gpu", ["loader.decode=gpu", "cpu, mixed"]),
    ("precision.name=fp8", ["precision.name=fp8", "fp32, tf32, bf16, fp16"]),
    ("optimizer.lr=-1", ["optimizer.lr=-1", "at least 0"]),
    ("optimizer.schedule=step", ["optimizer.schedule=step", "cosine, linear, constant"]),
    ("optimizer.betas=[0.9]", ["optimizer.betas"]),
    (
        "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0",
        ["optimizer.nesterov", "optimizer.momentum=0.9"],
    ),
    ("model.width=0", ["model.width=0", "at least 1"]),
    ("model=feedforward model.hidden=[0]", ["model.hidden"]),
    ("data=vectors", ["model=cnn", "needs images", "model=feedforward"]),
    ("data=vectors model=resnet18", ["resnet18", "needs images"]),
    ("data=vectors model=feedforward model.channels_last=true", ["model.channels_last"]),
    ("data=imagefolder", ["data.root", "a value is needed", "data.root=…"]),
    ("data=custom", ["data.target", "a value is needed"]),
    ("model=timm", ["model.name", "a value is needed"]),
    ("data.subsampling=411", ["data.subsampling=411", "444, 420"]),
    ("data.quality=100", ["data.quality=100", "1 to 95"]),
    ("data.transform=3", ["data.transform"]),
    ("data.transform.flip=2", ["data.transform.flip=2", "0 to 1"]),
    ("data.transform.scale=[0.5,x]", ["data.transform.scale", "'x'"]),
    ("data.transform.scale=[0.9,0.1]", ["data.transform.scale", "smaller first"]),
    ("data.transform.scale=[0.5,1.5]", ["data.transform.scale", "at most 1"]),
    ("data.transform.resize=10", ["data.transform.resize=10", "image_size"]),
    ("data.transform.std=[0,0,0]", ["data.transform.mean/std"]),
    ("data=imagefolder data.root=/tmp data.val_fraction=1.0", ["data.val_fraction"]),
    ("data=photos data.num_files=100", ["data.num_files=100", "data.num_classes (1000)", "data.num_classes=5"]),
    ("data=custom data.target=a:b data.options.n=3", ["data.options.n", "+data.options.n=…"]),
    ("loader=native,dali", ["loader=native,dali", "-m loader=native,dali"]),
    ("device=gpu", ["device=gpu: must be auto, cpu, cuda or cuda:N", "device=auto"]),
    ("a=b=c", ["quotes", "tracking.experiment="]),
]


@pytest.mark.parametrize(("overrides", "expected"), BAD, ids=[overrides for overrides, _ in BAD])
def test_a_wrong_override_is_explained(overrides: str, expected: list[str]) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException, config.UserError)) as raised:
        compose(overrides.split())
    message = explain(raised.value, "train", overrides.split())
    for text in expected:
        assert text in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize("overrides", ["loadr=dali", "batch_size=abc", "batch_size=0", "a=b=c"])
def test_an_error_ends_the_command(overrides: str, capsys: pytest.CaptureFixture[str]) -> None:
    def job(_config: config.TrainConfig, _overrides: list[str]) -> None:
        raise AssertionError("no job may start")

    assert main("train", config.TrainConfig, job, [overrides]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("\nerror: ")
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) <= 3


def test_a_wrong_job_stops_the_sweep_before_its_first_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", config.TrainConfig, lambda *_: None, ["-m", "batch_size=8,0"]) == 2
    printed = capsys.readouterr().err
    assert "job 2 (batch_size=0)" in printed
    assert "No job was started" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "loader=native,replay loader.num_workers=0",
            "of loader=replay (it belongs to loader=native). Settings here: ",
        ),
        ("loader=native,dali loader.num_workers=0", "of loader=dali (it belongs to loader=native). Did you mean"),
        ("loader=dali,native loader.num_workers=0", "of loader=dali (it belongs to loader=native). Did you mean"),
        (
            "study=loader_precision loader.num_threads=2",
            "of loader=native (it belongs to loader=spdl and dali). Did you",
        ),
        ("model=cnn,resnet18 model.width=3", "(it belongs to model=cnn). Settings here: model.channels_last"),
    ],
)
def test_an_unknown_setting_of_a_sweep_names_the_choice_that_lacks_it(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("train", config.TrainConfig, lambda *_: None, ["-m", *arguments.split()]) == 2
    setting = arguments.split()[1].partition("=")[0]
    assert f"error: {setting}: there is no such setting {message}" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["loader=null", "data=1"])
def test_a_value_that_is_not_a_choice_is_rejected_with_the_choices(
    override: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("train", config.TrainConfig, lambda *_: None, [override]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"error: {override}: is not a choice: one of ")
    assert len(message.splitlines()) == 1
