"""Named arrays in one memory-mapped file. Processes that open it share its pages, and pickling sends its path instead
of its content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loaderlab.system.files import atomic_file

Array = npt.NDArray[Any]

MAGIC = b"loaderlab arrays 1".ljust(32)
HEAD_BYTES = 64  # the magic bytes and the SHA-256 of the rest of the file: one line of JSON, then the arrays
ALIGN_BYTES = 64


class ArrayFile(Mapping[str, Array]):
    """The read-only arrays of a file that `write` made, by name.

    Args:
        path: the file.
        digest: of the expected content. Without it, the whole content is checked against the digest in the file.

    Attributes:
        facts: the values that were written with the arrays.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file has another format, is damaged, or does not have the expected content.
    """

    def __init__(self, path: Path, digest: bytes | None = None) -> None:
        with path.open("rb") as file:
            self._path, self._digest = path, _digest(file.read(HEAD_BYTES))
            expected = hashlib.file_digest(file, "sha256").digest() if digest is None else digest
            if self._digest is None or expected != self._digest:
                raise ValueError(f"{path}: does not contain the arrays that were written there")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        end = mapped.find(b"\n", HEAD_BYTES)
        content = json.loads(mapped[HEAD_BYTES:end])
        self.facts: dict[str, Any] = content["facts"]
        self._arrays = {
            name: np.frombuffer(mapped, dtype, int(np.prod(shape)), _padded(end + 1) + offset).reshape(shape)
            for name, (dtype, shape, offset) in content["arrays"].items()
        }

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the path while the file there is still this one, and the arrays themselves after it was replaced."""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            if _digest(file.read(HEAD_BYTES)) == self._digest:
                return ArrayFile, (self._path, self._digest)
        return dict, ({name: array.copy() for name, array in self.items()},)


def write(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Writes the whole file or nothing. Only this user may read it, because it may list the names of private files.

    Raises:
        OSError: the file cannot be written.
    """
    layout, offset = {}, 0
    for name, array in arrays.items():
        layout[name] = array.dtype.str, array.shape, offset
        offset += _padded(array.nbytes)
    line = json.dumps({"facts": facts, "arrays": layout}).encode() + b"\n"
    with atomic_file(path) as partial:
        partial.touch(0o600)
        with partial.open("wb") as file:
            digest = hashlib.sha256()
            file.write(bytes(HEAD_BYTES))
            for part in (memoryview(line), *(array.data.cast("B") for array in arrays.values())):
                for piece in (part, bytes(_padded(len(part)) - len(part))):
                    file.write(piece)
                    digest.update(piece)
            file.seek(0)
            file.write(MAGIC + digest.digest())


def _digest(head: bytes) -> bytes | None:
    return head[len(MAGIC) :] if head.startswith(MAGIC) else None


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN_BYTES) * ALIGN_BYTES
