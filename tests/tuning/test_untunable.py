"""Runs and settings that the tuner refuses before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest

from loaderlab.config import TrainConfig, TunedTrainConfig, WrongUsage, refuse_untunable


@pytest.mark.parametrize("text", ["steps=5", "epochs=2", "+steps=5"])
def test_a_typed_length_of_the_run_is_refused(text: str, make_config: Callable[..., TrainConfig]) -> None:
    train = make_config("steps=5")
    config = TunedTrainConfig(**{entry.name: getattr(train, entry.name) for entry in fields(TrainConfig)})
    name = text.lstrip("+").partition("=")[0]
    with pytest.raises(WrongUsage, match=rf"{name}=\d: has no effect on the tuner.* Type: .*leave out {name}"):
        refuse_untunable(config, [text])
    refuse_untunable(config, ["steps=null", "epochs=auto", "batch_size=4"])  # a study or a file may set the length
