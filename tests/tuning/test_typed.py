"""A candidate as overrides of a run, which the configuration accepts, and as arguments of a DataLoader, which it accepts."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from loaderlab.tuning.candidate import DALI, RESIDENT, SPDL, Branch, Candidate
from loaderlab.tuning.typed import keywords, override_of, snippet
from tests.conftest import compose
from tests.tuning.answers import workers

PILLOW = Branch(also=(("loader.decoder", "pillow"), ("loader.in_order", "false")))
CANDIDATES = {
    "loader.num_workers=2 loader.prefetch_factor=4 loader.pin_memory=true loader.persistent_workers=true": workers(
        2, 4
    ),
    "loader.num_workers=0 loader.pin_memory=true": Candidate(
        prefetch=2, pin_memory=True, persistent=True, start_method="spawn"
    ),
    "loader.num_workers=1 loader.side_stream=false loader.start_method=spawn": Candidate(
        makers=1, side_stream=False, start_method="spawn"
    ),
    "loader=spdl loader.num_threads=2": Candidate(Branch(SPDL), 2),
    "loader=dali loader.num_threads=3 loader.prefetch_queue_depth=4": Candidate(Branch(DALI), 3, 4, pin_memory=True),
    "loader=resident": Candidate(Branch(RESIDENT)),
    "loader.num_workers=1 loader.decoder=pillow loader.in_order=false": Candidate(PILLOW, 1),
}


@pytest.mark.parametrize("typed", CANDIDATES)
def test_overrides(typed: str) -> None:
    assert override_of(CANDIDATES[typed]) == typed
    words = [word for word in shlex.split(typed) if word != "loader.pin_memory=true"]  # refused on a CPU
    assert compose(words)


def test_another_loader_is_named_if_the_current_one_differs() -> None:
    spdl, native = Candidate(Branch(SPDL), 2), Candidate(makers=2)
    assert override_of(native, spdl) == "loader=native loader.num_workers=2"
    assert override_of(spdl, spdl) == "loader.num_threads=2"
    resident = Candidate(Branch(RESIDENT))
    assert override_of(resident, resident) == "loader=resident"


@pytest.mark.parametrize("count", [0, 2])
def test_a_data_loader_takes_the_keywords(count: int) -> None:
    candidate = Candidate(makers=count, prefetch=3, pin_memory=False, persistent=True, start_method="spawn")
    dataset: Any = TensorDataset(torch.zeros(4))
    loader = DataLoader(dataset, **keywords(candidate))  # type: ignore[arg-type]
    assert loader.num_workers == count
    assert loader.prefetch_factor == (3 if count else None)
    assert loader.persistent_workers == bool(count)


def test_snippets() -> None:
    whole = (
        "DataLoader(dataset, batch_size=64, num_workers=2, prefetch_factor=2, pin_memory=True, persistent_workers=True)"
    )
    assert snippet(workers(2), 64) == whole
    assert snippet(Candidate(PILLOW, 1)) == "DataLoader(dataset, num_workers=1, in_order=False)"
    assert snippet(Candidate(Branch("own"), 1), 64) == "loader(num_workers=1)"
    assert "non_blocking" in snippet(Candidate(makers=1, pin_memory=True, side_stream=True))
    for backend in (SPDL, DALI, RESIDENT):
        assert snippet(Candidate(Branch(backend), 1)) == ""
