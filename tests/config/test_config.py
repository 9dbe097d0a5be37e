"""The schema: every choice composes, and every setting is documented."""

from __future__ import annotations

import dataclasses
import functools
from itertools import pairwise
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from loaderlab import config
from loaderlab.cli.schemas import CONF, SCHEMAS
from loaderlab.compare import ladder
from loaderlab.system import machine
from tests.conftest import compose

CHOICES = [
    (folder.name, file.stem)
    for folder in sorted(CONF.iterdir())
    if folder.is_dir()
    for file in sorted(folder.glob("*.yaml"))
]
NEEDS = {  # the settings that a choice requires
    ("data", "imagefolder"): ["data.root=/tmp"],
    ("data", "custom"): ["data.target=a:b"],
    ("data", "vectors"): ["model=feedforward"],
    ("data", "webdataset"): ["data.shards=/path"],
    ("accelerator", "custom"): ["accelerator.step_ms=20"],
    ("accelerator", "feedforward"): ["batch_size=256"],
    ("launch", "nodes"): ["launch.rendezvous=node1:29500"],
    ("model", "timm"): ["model.name=resnet34"],
    ("model", "custom"): ["model.target=a:b"],
}


@functools.cache
def chosen(group: str, name: str) -> config.TrainConfig:
    return compose([f"{group}={name}", *NEEDS.get((group, name), [])])


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes(group: str, name: str) -> None:
    composed = chosen(group, name)
    if group in ("study", "rung"):
        assert getattr(composed, group) == name
    else:
        assert dataclasses.is_dataclass(getattr(composed, group))
    assert dict(config.flatten(composed))  # every setting has a value that can be recorded


def test_choice_is_recorded_under_the_groups_name() -> None:
    flat = dict(config.flatten(compose(["loader=dali", "precision=bf16", "model=resnet50"])))
    assert (flat["loader.name"], flat["precision.name"], flat["model.name"]) == ("dali", "bf16", "resnet50")
    assert flat["data.transform.image_size"] == 48


def test_every_setting_is_documented() -> None:
    def walk(kind: type) -> None:
        for entry in dataclasses.fields(kind):
            assert entry.metadata["doc"], f"{kind.__name__}.{entry.name}"

    for choices in SCHEMAS.values():
        for kind in choices.values():
            walk(kind)


def test_the_choices_of_a_group_differ() -> None:
    for group in {group for group, _ in CHOICES}:
        names = [name for other, name in CHOICES if other == group]
        flats = [str(list(config.flatten(chosen(group, name)))) for name in names]
        assert len(set(flats)) == len(names), group


def test_a_sweep_over_workers_needs_no_other_setting() -> None:
    for workers in (0, 2, 4):
        loader = compose([f"loader.num_workers={workers}"]).loader
        assert isinstance(loader, config.NativeLoader)
        assert loader.num_workers == workers


def test_steps_replace_epochs() -> None:
    assert compose([]).num_epochs == 20
    assert compose(["steps=5"]).num_epochs is None
    assert compose(["epochs=3", "seed=4", "repeat=2"]).effective_seed == 6


def test_measured_seconds_replace_epochs_and_steps() -> None:
    timed = compose(["measure.seconds=2", "measure.epoch_steps=30"])
    assert (timed.num_epochs, timed.planned_epochs, compose(["steps=5"]).planned_epochs) == (None, 20, None)
    assert compose(["epochs=3"]).planned_epochs == 3


def test_records_of_earlier_versions_have_no_measured_seconds() -> None:
    """Otherwise no sweep of an earlier version could be resumed."""
    names = {"measure.seconds", "measure.epoch_steps"}
    assert names.isdisjoint(dict(compose([]).recorded()))
    assert names <= dict(compose(["measure.seconds=2", "measure.epoch_steps=30"]).recorded()).keys()


# the rungs of the ladder, and the settings that each changes on a machine with four cores and native bf16
RUNGS: dict[str, dict[str, Any]] = {
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


def test_each_rung_changes_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: True)
    flats = {
        rung: dict(config.flatten(compose(["study=ladder", f"rung={rung}", "device=cpu"]))) for rung in ladder.RUNGS
    }
    for before, rung in pairwise(list(RUNGS)):
        changed = {name: value for name, value in flats[rung].items() if value != flats[before][name]}
        # auto is true on CUDA: persistent keeps the settings of the rungs before it, and also works on a CPU
        assert changed == {"rung": rung, **RUNGS[rung]}, rung
    for rung, loader in (("dali", "dali"), ("ceiling", "replay")):
        assert (flats[rung]["loader.name"], flats[rung]["precision.name"]) == (loader, "bf16")
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: False)
    assert compose(["study=ladder", "rung=dali", "device=cpu"]).precision.name == "fp32"


def test_a_ladder_on_images() -> None:
    composed = compose(["study=ladder", "rung=batched", "data=digits", "model=resnet18", "batch_size=32"])
    assert (config.choice(composed.model), config.choice(composed.data)) == ("resnet18", "digits")
    assert composed.batch_size == 32


def test_studies_adapt_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 6)
    params = {}
    for study in ("workers", "threads", "capacity"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra_compose("train", overrides=[f"study={study}"], return_hydra_config=True)
        params[study] = {name: str(value) for name, value in composed.hydra.sweeper.params.items()}
        assert composed.hydra.mode.name == "MULTIRUN"
    assert params["workers"] == {"repeat": "1,2,3", "loader.num_workers": "0,1,2,4,6,8"}
    speeds = {"accelerator.samples_per_s": "250,1000,4000,16000"}
    assert params["capacity"] == params["workers"] | speeds
    assert params["threads"] == {"repeat": "1,2,3", "loader.num_threads": "1,2,4,6,8"}
