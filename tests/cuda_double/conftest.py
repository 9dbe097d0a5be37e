"""The double for one test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loaderlab.device.timeline import VirtualClock
from tests.cuda_double.double import Double
from tests.cuda_double.patches import installed


@pytest.fixture
def double() -> Iterator[Double]:
    """A double on a virtual clock in the place of `torch.cuda`."""
    with installed(Double(VirtualClock())) as double:
        yield double
