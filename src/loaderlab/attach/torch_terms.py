"""A DataLoader's capabilities, and advice in PyTorch's own terms, for a user's own loop without loaderlab's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from loaderlab.diagnosis.evidence import Advice
from loaderlab.diagnosis.verdict import Verdict
from loaderlab.loaders.capabilities import Copying, LoaderCapabilities, Makers, Queue

IN_TORCH = {  # loaderlab setting to its equivalent in PyTorch code
    "loader.num_workers": "DataLoader(num_workers={value})",
    "loader.prefetch_factor": "DataLoader(prefetch_factor={value})",
    "loader.persistent_workers": "DataLoader(persistent_workers=True)",
    "loader.pin_memory": "DataLoader(pin_memory=True)",
    "loader.non_blocking": "tensor.to(device, non_blocking=True)",
    "batch_size": "batch_size={value}",
    "model.compile": "torch.compile(model)",
    "precision": "torch.autocast(device.type, torch.{dtype})",
}
LEAST_WARMUP = 5  # steps of a program that are left out at its start
DTYPES = {"bf16": "bfloat16"}


def in_torch_terms(advice: Advice) -> str:
    """How to follow the advice in PyTorch code; empty if PyTorch has no such setting."""
    template = IN_TORCH.get(advice.setting, "")
    if advice.setting == "precision" and advice.value not in DTYPES:
        return ""
    return template.format(value=advice.value, dtype=DTYPES.get(str(advice.value), ""))


def in_terms(verdict: Verdict, terms: Callable[[Advice], str]) -> Verdict:
    """A verdict whose advice is expressed in other terms; advice about a setting that they do not have is left out."""
    advice = tuple(entry for entry in verdict.advice if not entry.setting or terms(entry))
    return replace(verdict, advice=advice, render=terms)


class DataLoaderSettings(Protocol):
    """The settings of a DataLoader that matter here; a DataLoader has them, and so does what was noted about one."""

    @property
    def num_workers(self) -> int: ...
    @property
    def prefetch_factor(self) -> int | None: ...
    @property
    def pin_memory(self) -> bool: ...
    @property
    def persistent_workers(self) -> bool: ...


def of_torch(loader: DataLoaderSettings) -> LoaderCapabilities:
    """The capabilities of a DataLoader; how the user's loop copies batches to the device is not known."""
    return LoaderCapabilities(
        makers=Makers(loader.num_workers, "loader.num_workers", are_processes=True, whole_batches=True),
        lookahead=loader.num_workers * (loader.prefetch_factor or 0),
        parallel=max(1, loader.num_workers),
        copying=Copying(loader.pin_memory, non_blocking=False, side_stream=None),
        keeps_makers=loader.persistent_workers,
        queue=None if loader.prefetch_factor is None else Queue(loader.prefetch_factor, "loader.prefetch_factor"),
    )
