"""A candidate as the keyword arguments of a DataLoader. Pure."""

from __future__ import annotations

from typing import Any

from loaderlab.tuning.candidate import Candidate
from loaderlab.tuning.typed import keywords

DEFAULT_PREFETCH = 2  # of torch
FORM = (
    "Pass a function instead:\n"
    "    def make_loader(num_workers, prefetch_factor, pin_memory, persistent_workers, multiprocessing_context):\n"
    "        return DataLoader(dataset, batch_size=64, num_workers=num_workers, prefetch_factor=prefetch_factor,\n"
    "                          pin_memory=pin_memory, persistent_workers=persistent_workers,\n"
    "                          multiprocessing_context=multiprocessing_context)\n"
    "    loaderlab.tune(make_loader, step)"
)


def arguments_of(candidate: Candidate) -> dict[str, Any]:
    """All settings, as a user's function gets them: valid for a DataLoader with and without workers."""
    workers = candidate.makers
    return {
        "num_workers": workers,
        "prefetch_factor": (candidate.prefetch or DEFAULT_PREFETCH) if workers else None,
        "pin_memory": bool(candidate.pin_memory),
        "persistent_workers": bool(candidate.persistent) if workers else False,
        "multiprocessing_context": candidate.start_method if workers else None,
    }


def override_of(candidate: Candidate) -> str:
    """The settings in one line: ``num_workers=2 prefetch_factor=2``."""
    return " ".join(f"{name}={value}" for name, value in keywords(candidate).items())
