"""Results in a file with a line of JSON for each, which is continued."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def append(path: Path, result: DataclassInstance) -> None:
    """Appends a line with a result, in a folder that is created if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read(path: Path, kind: type[T]) -> list[T]:
    """The results of this kind in a file, which may not exist yet."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [kind(**line) for line in lines]
