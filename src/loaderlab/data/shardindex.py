"""Indexes of tar files, stored next to them: the position of each sample's members, by extension.

An index has the format of DALI's ``wds2idx``, so DALI's reader accepts it too. The first line of an index that is written
here also has the size, times and inode of the tar file, which DALI ignores. The index is used only while they all match. An
index without them, made by ``wds2idx`` itself, is used only if it is newer than the last change of the tar file.
"""

from __future__ import annotations

import os
import string
import tarfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote

from loaderlab.data.spec import DataError
from loaderlab.data.tarscan import BLOCK, Members, damage_at, scan
from loaderlab.system.files import atomic_file

VERSIONS = {"v1.1": 3, "v1.2": 4}  # of DALI's wds2idx: number of words per member in a line
OWN_SUFFIX = ".loaderlab.idx"  # wds2idx never writes such a name: its names have one dot after the first character
MARK = "loaderlab"  # in the first line of an index that is written here
UNQUOTED = string.punctuation.replace("%", "")
EMPTY = "%00"  # stands for an empty extension; the name of a tar member cannot contain NUL
TICK_S = 0.02  # the kernel's clock for files ticks every 1 to 10 ms
Stamp = tuple[int, int, int, int]  # size, mtime, ctime, inode
UNKNOWN = (0, 0, 0, 0)  # no tar file has this stamp, so the index is not used


def paths(tars: Sequence[str]) -> list[Path]:
    """The index file of each of these tar files (absolute paths). No two files of a folder share an index.

    ``wds2idx`` cuts a name at its first dot: ``set.idx`` for ``set.tar`` and for ``set.v2-000.tar``. That name is used if it
    belongs to one tar file only; otherwise the index has the whole name with a suffix.
    """
    folders = {os.path.dirname(path) for path in tars}
    owners = {folder: Counter(map(_dali_name, _entries(folder))) for folder in folders}
    indexes = []
    for path in tars:
        folder, name = os.path.split(path)
        short = _dali_name(name)
        indexes.append(Path(folder, name + OWN_SUFFIX if short is None or owners[folder][short] > 1 else short))
    return indexes


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # the folder cannot be listed: if two files share an index, it is written again each time
        return []


def _dali_name(name: str) -> str | None:
    """The index name that ``wds2idx`` gives; None if the file does not end with .tar."""
    return f"{name[: name.find('.', 1)]}.idx" if name.lower().endswith(".tar") and len(name) > len(".tar") else None


def members(path: str, index: Path) -> list[Members]:
    """The samples of a tar file, from its index if that is up to date; otherwise from its headers, and a new index is written.

    Raises:
        DataError: the tar file is incomplete, or a file with the index's name is not an index.
    """
    stamp = _stamp(path)
    if (indexed := _read(path, index, stamp)) is not None:
        return indexed
    samples = None
    try:
        with atomic_file(index) as partial:
            written_stamp = stamp if _stamp_is_final(partial, stamp) else UNKNOWN
            samples = scan(path)
            partial.write_text(_text(samples, written_stamp), encoding="ascii")
    except OSError:  # a read-only folder, or a name that is too long: the file is scanned each time
        return scan(path) if samples is None else samples
    return samples


def _stamp(path: str) -> Stamp:
    """Values that differ after any change of the file. They include ctime, because `rsync -a`, `cp -p` and `tar x` copy mtime
    from elsewhere."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _stamp_is_final(probe: Path, stamp: Stamp) -> bool:
    """Whether any later change of the tar file will give it another time. If the file was changed within the current tick of
    the file system's clock, this waits for the next tick, at most as long as a tick takes on a local file system.

    Args:
        probe: a file to touch, in the folder of the tar file.
        stamp: of the tar file.
    """
    deadline = time.monotonic() + TICK_S
    while True:
        probe.touch()
        if probe.stat().st_mtime_ns > stamp[2]:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(TICK_S / 20)


def _read(path: str, index: Path, stamp: Stamp) -> list[Members] | None:
    """The samples from an index; None if there is no index, or it is damaged or out of date.

    Raises:
        DataError: a file of that name is not an index.
    """
    try:
        written_ns = index.stat().st_mtime_ns
        head, *lines = index.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return None
    version, *words = head.split() or ["v1.1"]
    if version not in VERSIONS:
        raise DataError(
            f"{index}: not an index of {path}, but an index with this name must be written. Rename or remove it"
        )
    own = words[1:2] == [MARK]
    if own and words[2:] != list(map(str, stamp)):
        return None
    if not own and written_ns <= max(stamp[1:3]):
        return None
    try:
        samples = [_parsed(line.split(), VERSIONS[version], own) for line in lines if line]
        if len(samples) != int(words[0]):
            return None
        if not own and not _ends_with_member(path, max(place for each in samples for place in each.values())):
            return None
    except (ValueError, IndexError, OSError, tarfile.TarError):
        return None
    return samples


def _ends_with_member(path: str, last: tuple[int, int]) -> bool:
    """Whether a tar file ends with a member of this offset and size. An index by ``wds2idx`` does not contain the file's size.

    Raises:
        OSError, tarfile.TarError: there is no such member.
    """
    offset, size = last
    with open(path, "rb") as file:
        file.seek(offset - BLOCK)
        header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    return header.size == size and damage_at(path, offset + -(-size // BLOCK) * BLOCK) is None


def _parsed(words: Sequence[str], step: int, quoted: bool) -> Members:
    """One line of an index.

    Raises:
        ValueError: it is damaged.
    """
    if len(words) % step:
        raise ValueError("the line has missing words")
    places: Members = {}
    for at in range(0, len(words), step):
        key, offset, size = words[at], int(words[at + 1]), int(words[at + 2])
        if offset % BLOCK or offset < BLOCK or size < 0:
            raise ValueError("no member can have this offset and size")
        if quoted:
            key = "" if key == EMPTY else unquote(key, errors="surrogateescape")
        places[key] = offset, size
    return places


def _text(samples: Sequence[Members], stamp: Stamp) -> str:
    lines = [
        " ".join(
            f"{quote(key, UNQUOTED, errors='surrogateescape') or EMPTY} {at} {size}" for key, (at, size) in each.items()
        )
        for each in samples
    ]
    return "\n".join([f"v1.1 {len(samples)} {MARK} {' '.join(map(str, stamp))}", *lines, ""])
