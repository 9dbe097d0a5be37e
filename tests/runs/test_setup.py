"""The setup of a run: the speed of an emulated accelerator."""

from __future__ import annotations

import pytest

from loaderlab.device.resolve import device_of
from loaderlab.runs.setup import requested_speed
from tests.conftest import compose

CUSTOM = ["accelerator=custom", "accelerator.step_ms=20"]


def test_a_real_run_has_no_requested_speed() -> None:
    assert requested_speed(compose([]), []) is None


@pytest.mark.parametrize(
    ("overrides", "rate", "threshold", "is_mlperf"),
    [
        (["accelerator=resnet50_a100"], 400 / 0.435, 0.9, True),
        (["accelerator=resnet50_a100", "accelerator.host_ms=0"], 400 / 0.435, 0.9, True),
        (["accelerator=retinanet_b200"], 24 / 0.04755, 0.85, True),
        (["accelerator=retinanet_b200", "accelerator.min_utilization=0.8"], 24 / 0.04755, 0.8, False),
        (["accelerator=resnet50_a100", "accelerator.step_ms=100"], 4000.0, 0.9, False),
        (["accelerator=feedforward", "batch_size=256"], 512_000.0, 0.9, False),
        ([*CUSTOM, "batch_size=32"], 1600.0, 0.9, False),
        # 2 steps of 20 ms and 10 ms of all-reduce for 64 samples
        (
            [*CUSTOM, "batch_size=32", "accumulate=2", "accelerator.allreduce_ms=10"],
            32 / (0.02 * (1 - 1 / 18) + 0.005),
            0.9,
            False,
        ),
    ],
)
def test_the_requested_speed(overrides: list[str], rate: float, threshold: float, *, is_mlperf: bool) -> None:
    speed = requested_speed(compose(overrides), overrides)
    assert speed is not None
    assert speed.title == f"emulated {overrides[0].partition('=')[2]}"
    assert speed.rate == pytest.approx(rate)
    assert (speed.min_utilization, speed.is_mlperf) == (threshold, is_mlperf)


def test_a_short_last_batch_needs_a_whole_all_reduce() -> None:
    """100 samples in batches of 32: 4 steps, which need 3.125 times 20 ms and 4 times 10 ms."""
    overrides = [*CUSTOM, "batch_size=32", "accelerator.allreduce_ms=10"]
    speed = requested_speed(compose(overrides), overrides, mean_batch=25)
    assert speed is not None
    assert speed.rate == pytest.approx(100 / (3.125 * 0.02 + 4 * 0.01))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ([], "emulated custom: 20 ms per batch of 32, 1,600 samples/s"),
        (
            ["accelerator.allreduce_ms=5"],
            "emulated custom: 20 ms per batch of 32 and 5 ms per all-reduce, 1,280 samples/s",
        ),
        (
            ["accelerator.allreduce_ms=5", "accumulate=2"],
            "emulated custom: 20 ms per batch of 32 and 5 ms per all-reduce, one update in 2 steps, 1,496 samples/s",
        ),
    ],
)
def test_the_devices_name_has_the_rate_that_the_utilization_refers_to(more: list[str], text: str) -> None:
    config = compose([*CUSTOM, "batch_size=32", *more])
    speed = requested_speed(config, [])
    assert device_of(config).name.startswith(text)
    assert speed is not None
    assert f"{speed.rate:,.0f} samples/s" in text
