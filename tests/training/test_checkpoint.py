"""Which settings may change when a run is resumed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loaderlab.config import TrainConfig, flatten
from loaderlab.runs import job, run
from loaderlab.system.terminal import Terminal
from loaderlab.training.checkpoint import FREE
from tests.conftest import compose


@pytest.mark.parametrize("name", FREE)
def test_every_free_name_is_a_setting_or_a_group(name: str) -> None:
    """No other setting begins with it, because `load` uses these names as prefixes."""
    settings = [setting for setting, _ in flatten(compose([])) if setting.startswith(name)]
    assert settings if name.endswith(".") else settings == [name]


def test_a_run_resumes_with_another_number_of_threads(
    make_config: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    common = ["checkpoint.every_minutes=0", "checkpoint.keep=true"]
    for overrides in (["epochs=1", "torch_threads=1"], ["epochs=2", "torch_threads=2", "resume=latest"]):
        config = make_config(*common, *overrides)
        result = run.run(config, job.single(config, overrides), terminal)
        assert result.status == "FINISHED"
        assert "train/loss" in result.figures
    assert any(text.startswith("resumed from") and "1 epochs" in text for text in terminal.said)
