"""The precision of the ladder's rungs after ``bf16``: bf16 if that rung is applicable on the device of the jobs, otherwise fp32."""

from __future__ import annotations

import functools
import subprocess
import sys

from loaderlab.config import AUTO, PrecisionConfig, UserError
from loaderlab.config.accelerator import NONE
from loaderlab.system import machine
from loaderlab.system.nvml import gpus

NO_ARITHMETIC = "an emulated accelerator does no arithmetic, so the precision does not matter"
CHILD = "from loaderlab.runs.ladder_precision import precision_on; print(precision_on(input()))"


def ladder_precision(device: str, accelerator: str = NONE) -> str:
    """The precision of the rungs ``dali`` and ``ceiling``.

    If the device may be a GPU, a fresh process resolves it as the jobs do: the parent of a sweep starts no CUDA. It takes a few
    seconds, once per command.

    Args:
        device: the setting ``device``, such as ``auto`` or ``cuda:1``.
        accelerator: the setting ``accelerator.name``. An emulated one does no arithmetic, so its rung ``bf16`` is not applicable.

    Raises:
        UserError: the process failed. A device that does not exist is no failure here: the jobs report it.
    """
    if accelerator != NONE:
        return _name(applicable=False)
    if device == "cpu" or (device == AUTO and not _has_gpu()):
        return _name(applicable=machine.cpu_has_bf16())
    return _in_fresh_process(device)


def precision_on(name: str) -> str:
    """The same, determined in this process with torch, by the checks that decide whether a job is applicable."""
    from loaderlab.device.resolve import resolve_device
    from loaderlab.training.precision import unsuitable, unsupported

    config = PrecisionConfig("bf16")
    try:
        device = resolve_device(name)
    except UserError:  # every job of the sweep will report it
        return _name(applicable=False)
    return _name(applicable=unsupported(config, device) is None and unsuitable(config, device, ladder=True) is None)


@functools.cache
def _in_fresh_process(device: str) -> str:
    # -P: a file in the working folder must not hide a module of the standard library
    command = [sys.executable, "-P", "-c", CHILD]
    done = subprocess.run(command, input=device, capture_output=True, encoding="utf-8")
    if done.returncode != 0:
        last_line = next(reversed(done.stderr.splitlines()), f"exit code {done.returncode}")
        raise UserError(f"device={device}: the device cannot be queried: {last_line}")
    return done.stdout.split()[-1]


def _name(*, applicable: bool) -> str:
    return "bf16" if applicable else "fp32"


def _has_gpu() -> bool:
    with gpus() as handles:
        return bool(handles)
