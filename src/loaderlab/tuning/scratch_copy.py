"""A copy of the working folder, in which a trial of a script runs: what the script writes there is removed with it.

Small files are copied, 100 MiB in total. Larger ones and folders with many files are linked, and virtual environments too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loaderlab.config import UserError
from loaderlab.system.causes import reason

COPIED_BYTES = 100 * 2**20
MANY = 2_000  # entries of a folder from which it is linked as a whole: a data set
MOST = 50_000  # entries that are looked at
LEFT_OUT = (".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
ENVIRONMENT = "pyvenv.cfg"  # marks the folder of a virtual environment


@dataclass(frozen=True)
class Plan:
    """What is copied and what is linked. Paths are relative to the folder.

    Attributes:
        folders: to be created, a parent before its children.
        files: to be copied.
        linked_files, linked_folders: to be linked.
        links: symbolic links, with their targets.
        linked_bytes: of the linked files.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    linked_files: tuple[str, ...]
    linked_folders: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    linked_bytes: int


def planned(folder: Path) -> Plan:
    """What to copy of a folder and what to link.

    Raises:
        UserError: it is too large to be a program's folder, or cannot be read.
    """
    try:
        return _planned(folder)
    except OSError as error:  # a file that another program has just removed, for example
        raise UserError(f"the working folder cannot be copied: {reason(error)}") from error


def _planned(folder: Path) -> Plan:
    folders: list[str] = []
    sizes: dict[str, int] = {}
    linked_folders: list[str] = []
    links: list[tuple[str, str]] = []
    for number, (kind, path, entry) in enumerate(_walk(folder, folder)):
        if number == MOST:
            raise UserError(
                f"the working folder {folder} has more than {MOST:,} files. A copy of it is needed for each trial: start the command in the "
                "folder of your program"
            )
        match kind:
            case "folder":
                folders.append(path)
            case "linked folder":
                linked_folders.append(path)
            case "link":
                links.append((path, _target(entry)))
            case _:
                sizes[path] = entry.stat().st_size
    files: list[str] = []
    linked: list[str] = []
    total = 0
    for path, size in sorted(sizes.items(), key=lambda item: item[1]):
        total += size
        (files if total <= COPIED_BYTES else linked).append(path)
    return Plan(
        tuple(folders),
        tuple(files),
        tuple(linked),
        tuple(linked_folders),
        tuple(links),
        sum(sizes[path] for path in linked),
    )


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, str, os.DirEntry[str]]]:
    """The entries of a folder, each with its kind and its path."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = os.path.relpath(entry.path, root)
            if entry.name in LEFT_OUT:
                continue
            if entry.is_symlink():
                yield "link", path, entry
            elif entry.is_dir():
                if _is_linked(Path(entry.path)):
                    yield "linked folder", path, entry
                else:
                    yield "folder", path, entry
                    yield from _walk(Path(entry.path), root)
            elif entry.is_file():
                yield "file", path, entry


def _is_linked(folder: Path) -> bool:
    """Whether a folder has very many entries, cannot be read, or is a virtual environment."""
    if (folder / ENVIRONMENT).exists():
        return True
    try:
        with os.scandir(folder) as entries:
            return len(list(entries)) > MANY
    except OSError:
        return True


def _target(entry: os.DirEntry[str]) -> str:
    """Where a symbolic link of the copy points: to the original's target."""
    return os.path.join(os.path.dirname(os.path.abspath(entry.path)), os.readlink(entry.path))


def copied(folder: Path, plan: Plan, target: Path) -> None:
    """Copies a folder to a new place.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    target.mkdir()
    for path in plan.folders:
        (target / path).mkdir()
    for path in plan.files:
        shutil.copy2(folder / path, target / path)
    for path in (*plan.linked_files, *plan.linked_folders):
        (target / path).symlink_to(folder / path)
    for path, destination in plan.links:
        (target / path).symlink_to(destination)


def linked_text(plan: Plan) -> str:
    """What is linked, in a sentence; empty if nothing is."""
    linked = [f"{path}/" for path in plan.linked_folders] + list(plan.linked_files)
    if not linked:
        return ""
    shown = ", ".join(linked[:3]) + (f" and {len(linked) - 3} more" if len(linked) > 3 else "")
    return f"linked instead of copied, because of the size: {shown}"
