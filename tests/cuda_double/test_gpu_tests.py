"""The option ``--cuda-double``: its lists name tests that exist."""

from __future__ import annotations

import re

import pytest

from loaderlab.config import PROJECT
from tests.cuda_double.gpu_tests import IMPOSSIBLE, PLANTED


@pytest.mark.parametrize("name", [*IMPOSSIBLE, *sorted(PLANTED)])
def test_a_listed_test_exists(name: str) -> None:
    definition = re.compile(rf"^def {name}\(", re.MULTILINE)
    assert [path for path in (PROJECT / "tests").rglob("test_*.py") if definition.search(path.read_text())]
