from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from loaderlab.data.file_bytes import bytes_of_file

CONTENT = bytes(range(100))


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    return str(file)


@pytest.mark.parametrize(
    ("part", "expected"),
    [((), CONTENT), ((10, 5), CONTENT[10:15]), ((90, 20), CONTENT[90:]), ((200, 5), b""), ((3, 0), b"")],
)
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_bytes(
    part: tuple[int, ...], expected: bytes, at_once: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the file system returns fewer bytes than it was asked for."""
    read = os.preadv

    def short(file: int, buffers: list[Any], offset: int) -> int:
        return read(file, [buffers[0][:at_once]], offset)

    monkeypatch.setattr(os, "preadv", short)
    data = bytes_of_file(path, *part)
    assert data.tobytes() == expected
    data[:] = 0  # it can be written to


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert len(bytes_of_file(str(tmp_path / "empty"))) == 0


def test_files_that_cannot_be_read_leave_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        bytes_of_file(str(tmp_path / "missing"))
    with pytest.raises(IsADirectoryError):
        bytes_of_file(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == len(before)
