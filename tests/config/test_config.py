"""The schema: every choice composes, and bad input is told in one message that names field, value and remedy."""

from __future__ import annotations

import dataclasses
import functools
import sys
from itertools import pairwise
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from loaderlab import cli, config
from loaderlab.compare import ladder
from loaderlab.system import machine
from tests.conftest import compose

CHOICES = [
    (folder.name, file.stem)
    for folder in sorted(cli.CONF.iterdir())
    if folder.is_dir()
    for file in sorted(folder.glob("*.yaml"))
]
NEEDS = {  # what a choice cannot do without
    ("data", "imagefolder"): ["data.root=/tmp"],
    ("data", "custom"): ["data.target=a:b"],
    ("data", "vectors"): ["model=feedforward"],
    ("data", "webdataset"): ["data.shards=/path"],
    ("model", "timm"): ["model.name=resnet34"],
    ("model", "custom"): ["model.target=a:b"],
}


@functools.cache
def chosen(group: str, name: str) -> config.TrainConfig:
    return compose([f"{group}={name}", *NEEDS.get((group, name), [])])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    made = chosen(group, name)
    if group in ("study", "rung"):
        assert getattr(made, group) == name
    else:
        assert dataclasses.is_dataclass(getattr(made, group))
    assert dict(config.flatten(made))  # every setting has a value that a record can hold


def test_choice_is_recorded_under_the_groups_name() -> None:
    flat = dict(config.flatten(compose(["loader=dali", "precision=bf16", "model=resnet50"])))
    assert (flat["loader.name"], flat["precision.name"], flat["model.name"]) == ("dali", "bf16", "resnet50")
    assert flat["data.transform.image_size"] == 48


def test_every_setting_is_documented() -> None:
    def walk(kind: type) -> None:
        for entry in dataclasses.fields(kind):
            assert entry.metadata["doc"], f"{kind.__name__}.{entry.name}"

    for choices in cli.SCHEMAS.values():
        for kind in choices.values():
            walk(kind)


def test_siblings_differ_from_each_other() -> None:
    for group in {group for group, _ in CHOICES}:
        names = [name for found, name in CHOICES if found == group]
        flats = [str(list(config.flatten(chosen(group, name)))) for name in names]
        assert len(set(flats)) == len(names), group


def test_sweep_over_workers_needs_no_other_knob() -> None:
    for workers in (0, 2, 4):
        loader = compose([f"loader.num_workers={workers}"]).loader
        assert isinstance(loader, config.NativeLoader)
        assert loader.num_workers == workers


def test_epochs_give_way_to_steps() -> None:
    assert compose([]).num_epochs == 20
    assert compose(["steps=5"]).num_epochs is None
    assert compose(["epochs=3", "seed=4", "repeat=2"]).seed_in_force == 6


BAD = [  # overrides, what the message must hold
    ("loader.side_stream=true loader.non_blocking=false", ["loader.side_stream=true", "loader.side_stream=auto"]),
    ("data.max_skipped=1.5", ["data.max_skipped=1.5", "a share: 0 to 1"]),
    ("data.on_error=ignore", ["data.on_error=ignore", "error, skip"]),
    ("loadr=dali", ["loadr", "no such setting", "Did you mean loader?"]),
    ("loader=dalii", ["loader=dalii", "no such choice", "Did you mean dali?", "native"]),
    ("nosuch/group=1", ["nosuch"]),
    ("measure=nosuch", ["measure=nosuch", "bare, default"]),
    ("measure.probes=1", ["measure.probes: there is no such setting. Did you mean measure.probe_s?"]),
    (
        "measure.contention=true measure.ceiling=false",
        ["measure.contention=true", "Type for example: measure.contention=auto"],
    ),
    ("measure.cold=true measure.ceiling=false", ["measure.cold=true", "Type for example: measure.ceiling=true"]),
    ("measure.probe_s=-1", ["measure.probe_s=-1.0", "must be at least 0"]),
    ("measure.parity_samples=0", ["measure.parity_samples=0", "must be at least 1"]),
    ("measure.profile_steps=0", ["measure.profile_steps=0", "must be at least 1"]),
    ("loader.num_worker=2", ["loader.num_worker", "loader=native", "Did you mean loader.num_workers?"]),
    ("loader=dali loader.num_workers=2", ["loader=dali", "belongs to loader=native", "loader.num_threads"]),
    ("loader.num_threads=2", ["loader=native", "belongs to loader=spdl and dali"]),
    ("loader=spdl loader.num_threads=0", ["loader.num_threads=0", "at least 1 or auto"]),
    ("loader=spdl loader.prefetch=2", ["loader=spdl", "loader.buffer_size"]),
    ("loader=resident loader.decoder=opencv", ["loader.decoder=opencv", "torchcodec, pillow"]),
    ("+nosuch=1", ["nosuch", "no such setting", "batch_size"]),
    ("+data.nosuch=1", ["data.nosuch", "data=digits", "data.image_px"]),
    ("+data.transform.nosuch=1", ["data.transform.nosuch", "data.transform.flip"]),
    ("nosuch.deep=1", ["nosuch", "no such setting"]),
    ("batch_size=abc", ["batch_size", "'abc'", "Integer", "batch_size=64"]),
    ("batch_size=0", ["batch_size=0", "at least 1", "batch_size=1"]),
    ("batch_size=-3", ["batch_size=-3", "at least 1"]),
    ("epochs=2.5", ["epochs=2.5", "whole number or auto"]),
    ("epochs=0", ["epochs=0", "at least 1"]),
    ("epochs=2 steps=5", ["steps=5", "epochs=2", "two ways"]),
    ("loader.num_workers=-1", ["loader.num_workers=-1", "at least 0"]),
    ("loader.num_workers=many", ["loader.num_workers=many", "whole number or auto"]),
    ("loader.pin_memory=yess", ["loader.pin_memory=yess", "true, false or auto"]),
    ("loader.decoder=opencv", ["loader.decoder=opencv", "torchcodec, pillow"]),
    ("loader.start_method=thread", ["fork, spawn, forkserver"]),
    (
        "loader.num_workers=0 loader.persistent_workers=true",
        ["loader.persistent_workers=true", "no workers to keep", "num_workers=2"],
    ),
    ("loader.num_workers=0 loader.prefetch_factor=4", ["loader.prefetch_factor=4", "nobody works ahead"]),
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
    ("a=b=c", ["quotes", "tracking.experiment="]),
]


@pytest.mark.parametrize(("overrides", "expected"), BAD, ids=[overrides for overrides, _ in BAD])
def test_bad_override(overrides: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *overrides.split()])
    with pytest.raises((HydraException, OmegaConfBaseException, config.UserError)) as raised:
        compose(overrides.split())
    told = cli.explain(raised.value, "train")
    for text in expected:
        assert text in told
    assert len(told.splitlines()) <= 3


@pytest.mark.parametrize("overrides", ["loadr=dali", "batch_size=abc", "batch_size=0", "a=b=c"])
def test_an_error_ends_the_command(
    overrides: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", overrides])

    def job(_config: config.TrainConfig, _overrides: list[str]) -> None:
        raise AssertionError("nothing may start")

    assert cli.main("train", config.TrainConfig, job) == 1
    said = capsys.readouterr()
    assert said.err.startswith("\nerror: ")
    assert "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) <= 3


def test_bad_job_of_a_sweep_stops_it_before_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "-m", "batch_size=8,0"])
    assert cli.main("train", config.TrainConfig, lambda *_: None) == 1
    said = capsys.readouterr().err
    assert "job 2 (batch_size=0)" in said
    assert "No job was started" in said


def test_help_explains_every_group_and_choice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "loader=dali", "--help"])
    assert cli.main("train", config.TrainConfig, lambda *_: None) == 0
    page = capsys.readouterr().out
    for group, name in CHOICES:
        comments = (cli.CONF / group / f"{name}.yaml").read_text().splitlines()
        doc = next(line.removeprefix("# ") for line in comments if not line.startswith("# @"))
        assert f"{name:<18}{doc}" in page, (group, name)
    for setting in (
        "loader.num_threads=auto",
        "batch_size=64",
        "data.transform.image_size=48",
        "optimizer.lr=",
    ):
        assert setting in page


RUNGS: dict[
    str, dict[str, Any]
] = {  # of the ladder, and what each changes on a machine of four cores that computes in bf16
    "single": {},
    "workers": {"loader.num_workers": 4},
    "pinned": {"loader.pin_memory": True},
    "non_blocking": {"loader.non_blocking": True},
    "side_stream": {"loader.side_stream": True},
    "persistent": {
        "loader.persistent_workers": True,
        "loader.pin_memory": "auto",
        "loader.non_blocking": "auto",
        "loader.side_stream": "auto",
    },
    "batched": {"loader.batched": True, "loader.num_workers": "auto", "loader.persistent_workers": "auto"},
    "bf16": {"precision.name": "bf16"},
}


def test_each_rung_adds_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setattr(machine, "has_bf16", lambda: True)
    flats = {rung: dict(config.flatten(compose(["study=ladder", f"rung={rung}"]))) for rung in ladder.RUNGS}
    for before, rung in pairwise(list(RUNGS)):
        changed = {name: value for name, value in flats[rung].items() if value != flats[before][name]}
        # auto is true on CUDA: persistent keeps what the rungs before it set, and is there on a CPU as well
        assert changed == {"rung": rung, **RUNGS[rung]}, rung
    for rung, loader in (("dali", "dali"), ("ceiling", "replay")):
        assert (flats[rung]["loader.name"], flats[rung]["precision.name"]) == (loader, "bf16")
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    assert compose(["study=ladder", "rung=dali"]).precision.name == "fp32"


def test_a_ladder_on_images() -> None:
    made = compose(["study=ladder", "rung=batched", "data=digits", "model=resnet18", "batch_size=32"])
    assert (config.choice(made.model), config.choice(made.data), made.batch_size) == ("resnet18", "digits", 32)


def test_studies_ask_for_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 6)
    found = {}
    for study in ("workers", "threads"):
        with initialize_config_dir(str(cli.CONF), version_base="1.3"):
            composed = hydra_compose("train", overrides=[f"study={study}"], return_hydra_config=True)
        found[study] = {name: str(value) for name, value in composed.hydra.sweeper.params.items()}
        assert composed.hydra.mode.name == "MULTIRUN"
    assert found["workers"] == {"repeat": "1,2,3", "loader.num_workers": "0,1,2,4,6,8"}
    assert found["threads"] == {"repeat": "1,2,3", "loader.num_threads": "1,2,4,6,8"}
