"""A copy of the working folder, in which a trial of a script runs: what the script writes there is removed with it.

Small files are copied, 100 MiB in total. Larger ones and folders with many files are linked, and virtual environments too. A symbolic link
leads to the copy of its target; if that is not copied, the link is treated as a linked file or folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

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
        links: symbolic links to what is copied, with their targets relative to the folder that contains the link.
    """

    folders: tuple[str, ...]
    files: tuple[str, ...]
    linked_files: tuple[str, ...]
    linked_folders: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


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
    links: dict[str, str] = {}  # with the real path of the target
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
                links[path] = os.path.realpath(entry.path)
            case _:
                sizes[path] = entry.stat().st_size
    files: list[str] = []
    linked: list[str] = []
    total = 0
    for path, size in sorted(sizes.items(), key=lambda item: item[1]):
        total += size
        (files if total <= COPIED_BYTES else linked).append(path)
    kept: list[tuple[str, str]] = []
    not_copied = {*linked, *linked_folders}
    for path, destination in links.items():
        target = os.path.relpath(destination, os.path.realpath(folder))
        if _is_copied(target, not_copied):
            kept.append((path, os.path.relpath(target, os.path.dirname(path) or os.curdir)))
        else:
            (linked_folders if os.path.isdir(destination) else linked).append(path)
    return Plan(tuple(folders), tuple(files), tuple(linked), tuple(linked_folders), tuple(kept))


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


def _is_copied(target: str, not_copied: Collection[str]) -> bool:
    """Whether the copy contains the target of a link, or its place if it does not exist yet.

    Args:
        target: relative to the folder.
        not_copied: what is linked.
    """
    path = PurePath(target)
    is_left_out = any(part in (os.pardir, *LEFT_OUT) for part in path.parts)
    return not is_left_out and not any(str(parent) in not_copied for parent in (path, *path.parents))


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
    return f"linked instead of copied, because they are large or symbolic links: {shown}"
