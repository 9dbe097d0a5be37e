"""The table of paths: its content, parts of it, and how it is sent to another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from loaderlab.data.arrayfile import ArrayFile, write
from loaderlab.data.paths import PathPacker, PathTable, smallest

NAMES = ["a/b.jpg", "ü/é 1.PNG", "c", "d/.jpg", "e.tar.gif"]


def every(table: PathTable) -> list[str]:
    """Its paths, in order."""
    return [table[index] for index in range(len(table))]


@pytest.fixture
def table(tmp_path: Path) -> PathTable:
    return PathTable.of(tmp_path, NAMES)


def test_it_returns_the_paths_it_was_made_of(table: PathTable, tmp_path: Path) -> None:
    assert every(table) == [str(tmp_path / name) for name in NAMES]
    assert table.encoded(1).decode() == table[1]


def test_a_part_has_its_own_order(table: PathTable) -> None:
    part = table.take(np.array([4, 1, 1]))
    assert every(part) == [table[4], table[1], table[1]]
    assert every(part.take(np.array([1, 0]))) == [table[1], table[4]]
    assert len(table.take(np.array([], np.int64))) == 0


def test_the_first_path_with_another_ending(table: PathTable) -> None:
    assert table.first_without({".jpg", ".png", ".gif", ""}) is None
    assert table.first_without({".jpg", ".gif", ""}) == table[1]
    assert table.first_without({".jpg", ".png"}) == table[2]
    assert table.take(np.array([4, 0, 3])).first_without({".jpg", ".gif"}) == table[3]  # .jpg is a name, not an ending


def test_on_a_file_it_is_sent_as_a_path_until_the_file_is_replaced(tmp_path: Path) -> None:
    packer, path = PathPacker(), tmp_path / "list"
    for index in range(1000):
        packer.add(f"class/{index:05d}.jpg", ".jpg")
    write(path, {}, packer.arrays())
    table = PathTable(tmp_path, ArrayFile(path), packer.endings)
    sent = pickle.dumps(table.take(np.arange(10)))
    assert len(sent) < 1000
    assert every(pickle.loads(sent)) == every(table)[:10]
    write(path, {}, PathTable.of(tmp_path, NAMES)._arrays)
    with pytest.raises(ValueError, match="does not contain the arrays"):
        pickle.loads(sent)
    again = pickle.loads(pickle.dumps(table))
    assert every(again) == every(table)
    path.unlink()
    assert every(pickle.loads(pickle.dumps(table.take(np.arange(10))))) == every(table)[:10]


def test_in_memory_it_is_sent_whole(table: PathTable) -> None:
    assert every(pickle.loads(pickle.dumps(table))) == every(table)


def test_indices_have_the_smallest_type() -> None:
    assert (smallest(2**31 - 1), smallest(2**31)) == (np.int32, np.int64)
