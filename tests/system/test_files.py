from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from loaderlab.system.files import atomic_file, atomic_folder

SIZE = 1 << 20


def write_over_and_over(path: Path, letter: str) -> None:
    for _ in range(50):
        with atomic_file(path) as partial:
            partial.write_text(letter * SIZE)


def killed_while_writing(path: Path) -> None:
    with atomic_file(path) as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def make_folder(folder: Path, letter: str, barrier: object) -> None:
    with atomic_folder(folder) as partial:
        (partial / "a").write_text(letter)
        barrier.wait()  # type: ignore[attr-defined]
        (partial / "b").write_text(letter)


def interrupt(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


def test_a_file_is_replaced_and_its_parent_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "file.json"
    for content in ("first", "second"):
        with atomic_file(path) as partial:
            partial.write_text(content)
            assert partial.parent == path.parent
        assert path.read_text() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as partial:
        interrupt(partial, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    process = multiprocessing.get_context("spawn").Process(target=killed_while_writing, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_two_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x" * SIZE)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_over_and_over, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = path.read_text()
        assert len(content) == SIZE
        assert len(set(content)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_complete_or_absent(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "folder"
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as partial:
        interrupt(partial / "file", KeyboardInterrupt)
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []
    with atomic_folder(folder) as partial:
        (partial / "file").write_text("whole")
    assert (folder / "file").read_text() == "whole"
    assert list(folder.parent.iterdir()) == [folder]


def test_the_first_of_two_writers_of_a_folder_wins(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [context.Process(target=make_folder, args=(folder, letter, barrier)) for letter in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (folder / "a").read_text() == (folder / "b").read_text()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path, atomic: object) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"), atomic(tmp_path / "file" / "x"):  # type: ignore[operator]
        raise AssertionError("not reached")


def test_a_folder_with_the_name_of_the_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError), atomic_file(tmp_path / "file") as partial:
        partial.write_text("content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
