"""What happens to the tests of programs that are not installed."""

from __future__ import annotations

import pytest

from tests.engines import NEEDED, needs


def test_a_missing_program_skips_a_test_or_fails_it_where_it_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NEEDED, raising=False)
    needs("")
    with pytest.raises(pytest.skip.Exception, match="not installed: ip"):
        needs("not installed: ip")
    monkeypatch.setenv(NEEDED, "1")
    needs("")
    with pytest.raises(pytest.fail.Exception, match="not installed: ip, and LOADERLAB_NEEDS_ENGINES is set"):
        needs("not installed: ip")
