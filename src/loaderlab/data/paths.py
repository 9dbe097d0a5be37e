"""Millions of file paths in one flat buffer that processes share, without a Python string for each."""

from __future__ import annotations

import os
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loaderlab.data.arrayfile import Array


class PathPacker:
    """Collects relative paths one by one, and returns the arrays for a `PathTable`."""

    def __init__(self) -> None:
        self._text, self._lengths, self._kinds = bytearray(), array("H"), array("B")
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, path: str, ending: str) -> None:
        encoded = path.encode()
        self._text += encoded
        self._lengths.append(len(encoded))
        self._kinds.append(self._codes.setdefault(ending, len(self._codes)))

    @property
    def endings(self) -> list[str]:
        """Every ending so far, in the order of its code in ``kinds``."""
        return list(self._codes)

    def arrays(self) -> dict[str, Array]:
        """``text``: (bytes,) uint8, the concatenated paths as UTF-8; ``bounds``: (N + 1,), where each path begins;
        ``kinds``: (N,) uint8, each path's ending as a position in `endings`."""
        bounds = np.zeros(len(self) + 1, smallest(len(self._text)))
        np.cumsum(np.frombuffer(self._lengths, np.uint16), out=bounds[1:])
        return {
            "text": np.frombuffer(self._text, np.uint8),
            "bounds": bounds,
            "kinds": np.frombuffer(self._kinds, np.uint8),
        }


class PathTable:
    """File paths by sample id. Unlike a list of str, it takes no more memory when worker processes read it.

    Args:
        root: the folder that the paths are relative to.
        arrays: see `PathPacker.arrays`. An `loaderlab.data.arrayfile.ArrayFile` is sent to another process as its path.
        endings: of the paths, in lower case: see `PathPacker.endings`.
        ids: the chosen paths in their order; None for all.
    """

    def __init__(
        self,
        root: Path,
        arrays: Mapping[str, Array],
        endings: Sequence[str],
        ids: npt.NDArray[np.integer] | None = None,
    ) -> None:
        self.root = root
        self._arrays, self._endings, self._ids = arrays, endings, ids
        self._prefix = str(root).encode() + b"/"

    @classmethod
    def of(cls, root: Path, paths: Sequence[str]) -> PathTable:
        """A table of these relative paths, stored in memory."""
        packer = PathPacker()
        for path in paths:
            packer.add(path, ending(path))
        return cls(root, packer.arrays(), packer.endings)

    def __len__(self) -> int:
        return len(self._arrays["kinds"]) if self._ids is None else len(self._ids)

    def encoded(self, index: int) -> bytes:
        """Absolute path as UTF-8 bytes."""
        position = index if self._ids is None else self._ids[index]
        bounds = self._arrays["bounds"]
        return self._prefix + self._arrays["text"][bounds[position] : bounds[position + 1]].tobytes()

    def __getitem__(self, index: int) -> str:
        return self.encoded(index).decode()

    def take(self, ids: npt.NDArray[np.integer]) -> PathTable:
        """A table of some of these paths, which shares the buffer with this one."""
        chosen = ids if self._ids is None else self._ids[ids]
        return PathTable(self.root, self._arrays, self._endings, chosen.astype(smallest(len(self._arrays["kinds"]))))

    def has_any(self, endings: Collection[str]) -> bool:
        """Whether any path in the buffer has one of these endings (lower case, with the dot)."""
        return not set(self._endings).isdisjoint(endings)

    def first_without(self, endings: Collection[str]) -> str | None:
        """The first path that has none of these endings (lower case, with the dot); None if all have one."""
        others = [code for code, known in enumerate(self._endings) if known not in endings]
        if not others:
            return None
        kinds = self._arrays["kinds"] if self._ids is None else self._arrays["kinds"][self._ids]
        matches = np.flatnonzero(np.isin(kinds, others))
        return self[int(matches[0])] if len(matches) else None


def ending(path: str) -> str:
    """The file name's extension with the dot, in lower case; empty if it has none."""
    return os.path.splitext(path)[1].lower()


def smallest(largest: int) -> type[np.int32] | type[np.int64]:
    """The smallest integer type for indices up to this number."""
    return np.int32 if largest <= np.iinfo(np.int32).max else np.int64
