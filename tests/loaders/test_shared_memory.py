"""/dev/shm without space: the worker's sending thread would only print the error, and training would wait forever."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from loaderlab.config import TrainConfig, UserError
from loaderlab.runs import job, run
from loaderlab.system import doctor
from loaderlab.system.terminal import Terminal

FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


@pytest.mark.timeout(60)
def test_a_full_shm_ends_the_run_in_one_line(
    make_config: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_slots(_: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", no_slots)
    parent, share = os.getpid(), torch.UntypedStorage._share_fd_cpu_

    def full(storage: torch.UntypedStorage, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() != parent:
            raise RuntimeError(FULL)
        return share(storage, *args, **kwargs)

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    config = make_config(
        "data=vectors", "model=feedforward", "data.num_samples=60", "loader.num_workers=1", "steps=3", "device=cpu"
    )
    with pytest.raises(UserError, match=re.escape(doctor.SHM)) as error:
        run.run(config, job.single(config, []), terminal)
    assert FULL in str(error.value)
    assert "\n" not in str(error.value)
