"""Settings of an emulated accelerator: what is refused, what is recorded, and the speed that its name states."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from loaderlab.config import (
    CONF,
    AcceleratorConfig,
    UserError,
    WrongUsage,
    flatten,
    refuse_single,
    refuse_typed,
)
from loaderlab.config.accelerator import SHORTEST_MS
from tests.conftest import compose

CUSTOM = ["accelerator=custom", "accelerator.step_ms=20"]
A100 = ["accelerator=resnet50_a100"]
PRESETS = sorted({path.stem for path in (CONF / "accelerator").glob("*.yaml")} - {"none", "custom"})

REFUSED = [  # what is typed, the beginning of the message, the override that it names
    (
        ["accelerator=custom"],
        "accelerator.step_ms=null: accelerator=custom needs the time of a step, or its rate",
        "accelerator.step_ms=20, or accelerator.samples_per_s=2000",
    ),
    (
        [*A100, "accelerator.samples_per_s=2000"],
        "accelerator.samples_per_s=2000.0: cannot be combined with accelerator.step_ms=435",
        "accelerator.step_ms=null accelerator.samples_per_s=2000",
    ),
    (
        [*CUSTOM, "accelerator.step_ms=0"],
        "accelerator.step_ms=0.0: must be finite and above 0",
        "accelerator.step_ms=20",
    ),
    (
        [*CUSTOM, "accelerator.step_ms=nan"],
        "accelerator.step_ms=nan: must be finite and above 0",
        "accelerator.step_ms=20",
    ),
    (
        [*CUSTOM, "accelerator.step_ms=inf"],
        "accelerator.step_ms=inf: must be finite and above 0",
        "accelerator.step_ms=20",
    ),
    (
        ["accelerator=custom", "accelerator.samples_per_s=-1"],
        "accelerator.samples_per_s=-1.0: must be finite and above 0",
        "accelerator.samples_per_s=2000",
    ),
    (
        [*CUSTOM, "accelerator.copy_gb_per_s=0"],
        "accelerator.copy_gb_per_s=0.0: must be finite and above 0",
        "accelerator.copy_gb_per_s=25",
    ),
    (
        [*CUSTOM, "accelerator.copy_gb_per_s=inf"],
        "accelerator.copy_gb_per_s=inf: must be finite and above 0",
        "accelerator.copy_gb_per_s=25",
    ),
    (
        [*CUSTOM, "accelerator.sample_kb=0"],
        "accelerator.sample_kb=0.0: must be finite and above 0",
        "accelerator.sample_kb=115",
    ),
    ([*CUSTOM, "accelerator.host_ms=-1"], "accelerator.host_ms=-1.0: must be at least 0", "accelerator.host_ms=0"),
    (
        [*CUSTOM, "accelerator.host_ms=nan"],
        "accelerator.host_ms=nan: must be finite and at least 0",
        "accelerator.host_ms=0.1",
    ),
    (
        [*CUSTOM, "accelerator.steps_ahead=1"],
        "accelerator.steps_ahead=1: must be at least 2",
        "accelerator.steps_ahead=2",
    ),
    (
        [*CUSTOM, "accelerator.min_utilization=90"],
        "accelerator.min_utilization=90.0: is a share and must be 0 to 1",
        "accelerator.min_utilization=0.9",
    ),
    (
        [*CUSTOM, "accelerator.min_utilization=-1"],
        "accelerator.min_utilization=-1.0: must be at least 0",
        "accelerator.min_utilization=0",
    ),
    (
        [*CUSTOM, "accelerator.made_for=audio"],
        "accelerator.made_for=audio: must be one of any, image_files, vectors",
        "accelerator.made_for=any",
    ),
    ([*CUSTOM, "device=cuda:1"], "device=cuda:1: accelerator=custom is emulated and uses no GPU", "device=auto"),
    ([*CUSTOM, "measure.profile=true"], "measure.profile=true: accelerator=custom is emul", "measure.profile=false"),
    ([*CUSTOM, "measure.sync=true"], "measure.sync=true: accelerator=custom is emulated", "measure.sync=false"),
    (
        [*A100, "loader=dali", "loader.decode=mixed"],
        "loader.decode=mixed: decoding on the GPU needs a GPU, and an emulated accelerator cannot decode",
        "loader.decode=cpu",
    ),
    (
        ["study=loader_precision", *A100],
        "study=loader_precision: varies the precision, which has no effect with accelerator=resnet50_a100",
        "study=workers accelerator=resnet50_a100, or study=loader_precision accelerator=none",
    ),
    (["fail_if.utilization_below=90"], "fail_if.utilization_below=90.0: is a share", "fail_if.utilization_below=0.9"),
    (["fail_if.utilization_below=-1"], "fail_if.utilization_below=-1.0: must be", "fail_if.utilization_below=0"),
    (
        ["measure=bare", "fail_if.utilization_below=0.9"],
        "fail_if.utilization_below=0.9: in a real run it is a share of the ceiling, and measure.ceiling=false",
        "measure.ceiling=true",
    ),
]


def refusal(overrides: list[str]) -> str:
    """The message about a configuration, in which every refusal has the same form."""
    with pytest.raises(WrongUsage) as raised:
        compose(overrides)
    return str(raised.value)


@pytest.mark.parametrize(("overrides", "beginning", "override"), REFUSED, ids=lambda value: str(value)[:70])
def test_refused_settings(overrides: list[str], beginning: str, override: str) -> None:
    message = refusal(overrides)
    assert message.startswith(beginning)
    assert message.endswith((f". Type: {override}", f". Type for example: {override}"))


@pytest.mark.parametrize("phases", ["[0.5,0.5]", "[1.2,-0.1,-0.1]", "[0.3,0.3,0.3]", "[nan,0.5,0.5]", "[]"])
def test_phases_are_three_shares(phases: str) -> None:
    assert "must be the three shares of forward, backward and optimizer" in refusal(
        [*CUSTOM, f"accelerator.phases={phases}"]
    )


def test_phases_may_be_rounded_and_zero() -> None:
    assert compose([*CUSTOM, "accelerator.phases=[0.333,0.556,0.111]"]).accelerator.phases == [0.333, 0.556, 0.111]
    assert compose([*CUSTOM, "accelerator.phases=[0,1,0]"]).accelerator.phases == [0, 1, 0]


@pytest.mark.parametrize(
    ("overrides", "setting", "took", "override"),
    [
        (["accelerator.step_ms=0.1"], "step_ms=0.1", "0.1", "accelerator.step_ms=0.2"),
        (["accelerator.samples_per_s=1000000"], "samples_per_s=1000000", "0.064", "batch_size=200"),
        (["accelerator.samples_per_s=1e9"], "samples_per_s=1000000000", "6.4e-05", "batch_size=200000"),
        (["accelerator.step_ms=10", "accelerator.batch_size=64000"], "step_ms=10", "0.01", "batch_size=64000"),
        (["accelerator.step_ms=0.1", "accelerator.batch_size=100"], "step_ms=0.1", "0.064", "batch_size=200"),
    ],
)
def test_a_step_too_short_for_the_host(overrides: list[str], setting: str, took: str, override: str) -> None:
    message = refusal(["accelerator=custom", *overrides])
    assert message.startswith(
        f"accelerator.{setting}: a step of batch_size=64 would take {took} ms, and the host cannot queue steps under 0.2 ms"
    )
    assert message.endswith(f"Type for example: {override}")
    assert compose(["accelerator=custom", *overrides, override])


def test_the_shortest_step_is_accepted() -> None:
    for speed in (f"step_ms={SHORTEST_MS}", f"samples_per_s={64 * 1e3 / SHORTEST_MS}"):
        assert compose(["accelerator=custom", f"accelerator.{speed}"])


def test_the_feedforward_preset_names_its_own_batch_size() -> None:
    message = refusal(["accelerator=feedforward", "data=vectors"])
    assert message.endswith("Type for example: batch_size=256")


def test_an_emulated_run_needs_no_model_that_fits_the_data() -> None:
    config = compose(["accelerator=feedforward", "data=vectors", "batch_size=256"])
    assert config.accelerator.is_emulated
    with pytest.raises(UserError, match="model=cnn: needs images"):
        compose(["data=vectors"])


@pytest.mark.parametrize("name", PRESETS)
def test_the_speed_of_a_preset(name: str) -> None:
    """The name states the preset's own speed with its source, and says so if another one was typed."""
    own = compose([f"accelerator={name}", "batch_size=400"]).accelerator
    assert own.published_sample_ms == pytest.approx(own.sample_ms(400), rel=1e-9)
    assert own.describe(400).endswith(f"({own.source})")
    assert own.made_for in ("image_files", "vectors")
    typed = compose([f"accelerator={name}", "accelerator.step_ms=777", "batch_size=400"]).accelerator
    assert f"(speed typed by the user; the preset has {own.requested_rate(400):,.0f} samples/s: " in typed.describe(400)
    rate = ["accelerator.step_ms=null", "accelerator.samples_per_s=2000"]
    assert compose([f"accelerator={name}", *rate]).accelerator.requested_rate(64) == pytest.approx(2000)


# ---- typed settings that have no effect ---------------------------------------------------------------------


def refuse(overrides: list[str]) -> None:
    refuse_typed(compose(overrides), overrides)


@pytest.mark.parametrize(
    "text",
    [
        "model=cnn",
        "model.channels_last=true",
        "precision=fp32",
        "++precision.name=bf16",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "evaluate=true",
        "evaluate=True",
        "deterministic=true",
        "checkpoint.keep=true",
        "checkpoint.every_minutes=1",
    ],
)
def test_a_typed_setting_of_a_real_step_is_refused(text: str) -> None:
    name, _, value = text.lstrip("+").partition("=")
    with pytest.raises(WrongUsage) as raised:
        refuse([*A100, text])
    assert str(raised.value) == (
        f"{name}={value}: has no effect with accelerator=resnet50_a100: an emulated step computes nothing. "
        f"Type: accelerator=none {name}={value}, or leave out {name}"
    )
    refuse([text])  # a real step uses it


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluate=false", "deterministic=false", "checkpoint.keep=false", "checkpoint.every_minutes=null"],
        ["device=cpu", "device=auto"],
        ["study=ladder", "rung=batched", "batch_size=512"],  # the study's model
        ["study=workers"],
        ["checkpoint.dir=/scratch"],  # only a location
        ["loader=dali", "study=threads"],
        ["loader.pin_memory=true", "loader.side_stream=true"],  # these exist on the emulated device
        ["measure.parity=true", "fail_if.utilization_below=0.9", "measure=bare"],
    ],
    ids=" ".join,
)
def test_what_an_emulated_run_accepts(overrides: list[str]) -> None:
    refuse([*A100, *overrides])


@pytest.mark.parametrize("text", ["accelerator.step_ms=20", "accelerator.host_ms=2.0"])
def test_settings_of_an_accelerator_need_one(text: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        refuse([text])
    name, _, value = text.partition("=")
    assert str(raised.value) == (
        f"{name}={value}: has no effect with accelerator=none. Type for example: accelerator=custom {name}={value}"
    )


@pytest.mark.parametrize("name", ["accelerator=custom", "accelerator=none"])
def test_none_is_no_name_of_an_accelerator(name: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        refuse([name, "accelerator.name=none"])
    assert str(raised.value) == (
        "accelerator.name=none: is the choice without an accelerator, not a name. Type: accelerator=none"
    )


def test_a_single_run_on_the_rung_bf16_is_not_emulated() -> None:
    overrides = ["rung=bf16", *A100]
    with pytest.raises(WrongUsage) as raised:
        refuse_single(compose(overrides))
    assert str(raised.value) == (
        "rung=bf16: has no effect with accelerator=resnet50_a100: an emulated step computes nothing. "
        "Type: accelerator=none rung=bf16, or leave out rung"
    )
    refuse(overrides)  # in a ladder, the rung is listed as not applicable
    refuse_single(compose(["rung=batched", *A100]))
    refuse_single(compose(["rung=bf16"]))


@pytest.mark.parametrize("accelerator", [A100, []], ids=["emulated", "real"])
def test_a_single_run_without_a_loader_has_no_gate(accelerator: list[str]) -> None:
    overrides = ["loader=replay", "fail_if.utilization_below=0.9", *accelerator]
    with pytest.raises(
        WrongUsage, match=r"^fail_if.utilization_below=0.9: loader=replay loads nothing, so there is no"
    ):
        refuse_single(compose(overrides))
    refuse(overrides)  # a sweep leaves the arm out
    refuse_single(compose(["loader=replay", *accelerator]))


def test_a_real_run_cannot_be_resumed_as_emulated() -> None:
    with pytest.raises(WrongUsage, match=r"^resume=latest: accelerator=resnet50_a100 is emulated: it has no weights"):
        refuse_single(compose([*A100, "resume=latest"]))
    refuse_single(compose(["resume=latest"]))
    refuse_single(compose(A100))


# ---- what is recorded ---------------------------------------------------------------------------------------


def test_a_real_run_records_the_settings_of_earlier_versions() -> None:
    config = compose(["loader=dali", "fail_if.utilization_below=0.5"])
    everything, recorded = dict(flatten(config)), dict(config.recorded())
    left_out = {name for name in everything if name not in recorded}
    assert left_out == {
        *(f"accelerator.{entry}" for entry in OmegaConf.structured(AcceleratorConfig)),
        "fail_if.utilization_below",
        "launch.name",
        "measure.epoch_steps",
        "measure.seconds",
    }
    assert all(recorded[name] == everything[name] for name in recorded)


def test_an_emulated_run_records_no_model_precision_or_optimizer() -> None:
    config = compose([*A100, "fail_if.utilization_below=0.5"])
    recorded = dict(config.recorded())
    assert not [name for name in recorded if name.startswith(("model", "precision", "optimizer", "checkpoint"))]
    assert not {"evaluate", "deterministic", "fail_if.utilization_below"} & recorded.keys()
    assert recorded["accelerator.name"] == "resnet50_a100"
    assert {"data.name", "loader.name", "batch_size", "epochs", "measure.ceiling", "accelerator.host_ms"} <= set(
        recorded
    )


def test_an_emulated_run_has_no_evaluation_and_no_checkpoints() -> None:
    real, emulated = compose([]), compose(A100)
    assert (real.evaluates, real.saves_checkpoints) == (True, True)
    assert (emulated.evaluates, emulated.saves_checkpoints) == (False, False)
    assert not compose(["evaluate=false"]).evaluates
    assert not compose(["checkpoint.every_minutes=null"]).saves_checkpoints
