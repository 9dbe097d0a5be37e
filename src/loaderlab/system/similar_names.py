"""The known name that is most similar to a mistyped one. Does not import Hydra."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(given: str, known: Sequence[str], prefix: str = "") -> str:
    """``Did you mean …?``, or nothing if no name is similar."""
    near = difflib.get_close_matches(given, known, n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""
