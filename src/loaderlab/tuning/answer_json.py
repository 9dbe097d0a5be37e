"""The answer of the tuner as JSON. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from loaderlab.tuning.answer import Answer
from loaderlab.tuning.candidate import Candidate


def as_json(answer: Answer) -> str:
    """The whole answer. A mapping from candidates becomes a list of its values, which contain the candidate; a number that is not finite
    becomes null."""
    return json.dumps(_plain(answer), indent=2) + "\n"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        if any(isinstance(key, Candidate) for key in value):
            return [_plain(entry) for entry in value.values()]
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
