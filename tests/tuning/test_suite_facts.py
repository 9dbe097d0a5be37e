"""What is known about a run before it is tuned, and what cannot be tuned."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from loaderlab.config import TrainConfig, TuneConfig, WrongUsage
from loaderlab.config.tune import ALSO, TUNED_BACKENDS
from loaderlab.probes import smaller_images
from loaderlab.tuning.candidate import DALI, NATIVE, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.suite_facts import describe
from loaderlab.tuning.without_effect import OF_BACKEND, OF_CHANGE

Make = Callable[..., TrainConfig]
CPU = ("device=cpu", "batch_size=1")  # 18 steps
A_STREAM = ("data=custom", f"data.target={__name__}:Stream", "data.num_classes=2", "device=cpu", "batch_size=4")


class Stream(IterableDataset[Any]):
    def __init__(self, count: int | None = 200) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return ((torch.zeros(3, 8, 8), 0) for _ in range(200))

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError
        return self.count


def test_the_settings_in_effect(make_config: Make) -> None:
    facts = describe(make_config(*CPU, "loader.num_workers=3"), TuneConfig())
    assert facts.current == Candidate(Branch(NATIVE), 3, 2, False, False, True)
    assert (facts.epoch_steps, facts.batch_size, facts.batch_bytes) == (18, 1, 16 * 16 * 3)
    assert (facts.takes_copies, facts.uses_host_cores, facts.in_dev_shm) == (False, True, False)
    assert facts.samples_bytes is not None
    assert facts.samples_bytes > 18 * 3 * 40 * 40
    assert {"fork", "spawn"} <= set(facts.can_start)
    facts = describe(make_config(*CPU, "loader.num_workers=0"), TuneConfig())
    assert facts.current == Candidate(Branch(NATIVE), 0, None, False, False)


@pytest.mark.parametrize(("gain_x", "remedy"), [(2.5, "2.5x as many samples"), (0.9, "")])
def test_smaller_images_are_a_remedy_if_they_gain(
    gain_x: float, remedy: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    gain = smaller_images.SmallerImages(500.0, 16, gain_x)
    monkeypatch.setattr(smaller_images, "smaller_images", lambda *_: gain)
    text = describe(make_config(*CPU), TuneConfig()).remedy
    assert remedy in text
    assert bool(text) is bool(remedy)


def test_an_emulated_accelerator_takes_copies(make_config: Make) -> None:
    config = make_config("accelerator=custom", "accelerator.step_ms=1", "batch_size=1", "loader=spdl")
    facts = describe(config, TuneConfig())
    assert (facts.takes_copies, facts.uses_host_cores) == (True, False)
    assert (facts.current.pin_memory, facts.current.side_stream) == (True, True)
    assert facts.current.branch == facts.branches[0] == Branch(SPDL)


def test_the_loaders_that_are_installed_may_be_tried(make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(*CPU)
    assert describe(config, TuneConfig()).branches == tuple(map(Branch, (NATIVE, SPDL, DALI, RESIDENT)))
    assert describe(config, TuneConfig(backends=["dali"])).branches == (Branch(NATIVE), Branch(DALI))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nvidia" else find_spec(name))
    assert describe(config, TuneConfig()).branches == tuple(map(Branch, (NATIVE, SPDL, RESIDENT)))
    with pytest.raises(WrongUsage, match="tune.backends=dali: the package nvidia.dali is not installed"):
        describe(config, TuneConfig(backends=["dali"]))
    assert describe(config, TuneConfig(backends=[])).branches == (Branch(NATIVE),)  # no other one


def test_loaders_that_cannot_serve_the_data_are_left_out(make_config: Make) -> None:
    vectors = make_config("data=vectors", "model=feedforward", "data.num_samples=90", "data.work=1", *CPU)
    assert describe(vectors, TuneConfig()).branches == tuple(map(Branch, (NATIVE, SPDL, DALI)))
    stream = make_config(*A_STREAM, "data.sharded=true")
    facts = describe(stream, TuneConfig())
    assert facts.branches == (Branch(NATIVE),)
    assert (facts.samples_bytes, facts.remedy) == (None, "")


def test_changes_of_the_work_are_branches_on_request(make_config: Make) -> None:
    tune = TuneConfig(backends=["native", "dali"], also=["decoder", "decode", "normalize_on", "in_order"])
    branches = describe(make_config(*CPU, "loader.decoder=pillow"), tune).branches
    assert branches == (
        Branch(NATIVE),
        Branch(DALI),
        Branch(NATIVE, (("loader.decoder", "torchcodec"),)),
        Branch(NATIVE, (("data.transform.normalize_on", "loader"),)),
        Branch(NATIVE, (("loader.in_order", "false"),)),
        Branch(DALI, (("data.transform.normalize_on", "loader"),)),  # nothing decodes on a CPU's device
    )


def test_what_was_requested_and_has_no_effect_is_named(make_config: Make) -> None:
    everything = TuneConfig(backends=["native", "resident", "spdl"], also=["decoder", "in_order", "decode"])
    notes = describe(make_config(*A_STREAM, "data.sharded=true"), everything).notes
    assert [note.partition(" has no effect ")[0] for note in notes] == [
        "the entry resident of tune.backends",
        "the entry spdl of tune.backends",
        "the entry decoder of tune.also",
        "the entry decode of tune.also",
    ]
    assert describe(make_config(*CPU), TuneConfig(backends=["native", "resident"], also=["decoder"])).notes == ()
    assert describe(make_config(*A_STREAM, "data.sharded=true"), TuneConfig()).notes == ()


def test_every_value_that_can_be_requested_has_a_reason() -> None:
    assert set(OF_CHANGE) == set(ALSO)
    assert {*OF_BACKEND, NATIVE} == set(TUNED_BACKENDS)  # native serves all data


def test_an_iterable_dataset_that_its_workers_would_repeat_is_refused(make_config: Make) -> None:
    with pytest.raises(
        WrongUsage, match=r"data.sharded=false: .* each sample would come N times.*get_worker_info.*true"
    ):
        describe(make_config(*A_STREAM), TuneConfig())


@pytest.mark.parametrize(("options", "steps"), [("", 50), ("+data.options.count=null", None)])
def test_the_steps_of_a_stream_are_those_of_its_length(options: str, steps: int | None, make_config: Make) -> None:
    overrides = (*A_STREAM, "data.sharded=true", *options.split())
    facts = describe(make_config(*overrides), TuneConfig())
    assert facts.epoch_steps == steps
    assert facts.no_gaps == ("" if steps else "the dataset has no length")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "batch_size=2",
            "batch_size=2: an epoch has 9 steps .18 samples., and the tuner needs at least 15. .*batch_size=1",
        ),
        ("batch_size=1 measure.epoch_steps=9", "measure.epoch_steps=9: the tuner needs at least 15 steps in an epoch"),
        ("batch_size=1 data.val_fraction=0.9", "data=imagefolder: an epoch has . steps .* a larger data set"),
    ],
)
def test_too_few_steps_are_refused(overrides: str, message: str, make_config: Make) -> None:
    with pytest.raises(WrongUsage, match=message):
        describe(make_config("device=cpu", *overrides.split()), TuneConfig())
