"""Programs outside of Python that some tests need: Slurm, PostgreSQL, ip."""

from __future__ import annotations

import os

import pytest

NEEDED = "LOADERLAB_NEEDS_ENGINES"  # set by .ci/run, which installs them all


def needs(missing: str) -> None:
    """Skips the test if something is not installed, or fails it where everything must be.

    Args:
        missing: what is not installed; empty if nothing is.
    """
    if missing and os.environ.get(NEEDED):
        pytest.fail(f"{missing}, and {NEEDED} is set")
    if missing:
        pytest.skip(missing)
