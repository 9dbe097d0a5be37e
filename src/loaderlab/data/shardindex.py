"""Indexes of tar files, kept beside them: by extension, where each sample's members lie.

An index has the format of DALI's ``wds2idx``, so DALI's reader takes it too. The first line of an index that is written here
goes on with the size, times and inode of its tar file, which DALI does not read: it is used only while all of them are the
same. An index without them, by ``wds2idx`` itself, is used only if it is newer than the last change of its tar file.
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

VERSIONS = {"v1.1": 3, "v1.2": 4}  # of DALI's wds2idx: words that each member has in its line
OWN_SUFFIX = (
    ".loaderlab.idx"  # a name that wds2idx gives to no index: its names have one dot, after the first character
)
MARK = "loaderlab"  # in the first line of an index that is written here
UNQUOTED = string.punctuation.replace("%", "")
EMPTY = "%00"  # stands for an extension of no characters; a tar member's name has no NUL
TICK_S = 0.02  # the kernel's clock for files ticks every 1 to 10 ms
Stamp = tuple[int, int, int, int]  # size, mtime, ctime, inode
UNKNOWN = (0, 0, 0, 0)  # no tar file's stamp: the index is not used


def paths(tars: Sequence[str]) -> list[Path]:
    """The index file of each of these tar files, which are absolute paths: no other file of its folder has the same one.

    ``wds2idx`` cuts a name at its first dot: ``set.idx`` for ``set.tar`` and for ``set.v2-000.tar``. That name is taken if it
    belongs to one tar file only, else the whole name with a suffix.
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
    except OSError:  # may be entered and not listed: a name may then be shared, and its index is made again each time
        return []


def _dali_name(name: str) -> str | None:
    """None for a file without the ending of a tar file: those that share its name are not looked for."""
    return f"{name[: name.find('.', 1)]}.idx" if name.lower().endswith(".tar") and len(name) > len(".tar") else None


def members(path: str, index: Path) -> list[Members]:
    """The samples of a tar file, from its index if that is up to date; else from its headers, and a new index is left.

    Raises:
        DataError: it is no whole tar file, or a file of the index's name is no index.
    """
    stamp = _stamp(path)
    if (kept := _read(path, index, stamp)) is not None:
        return kept
    samples = None
    try:
        with atomic_file(index) as partial:
            kept_stamp = stamp if _settled(partial, stamp) else UNKNOWN
            samples = scan(path)
            partial.write_text(_text(samples, kept_stamp), encoding="ascii")
    except OSError:  # a read-only folder, or a name that is too long: scanned again each time
        return scan(path) if samples is None else samples
    return samples


def _stamp(path: str) -> Stamp:
    """What differs after any change of the file. With the time of its inode: `rsync -a`, `cp -p` and `tar x` set the other time
    to what it was elsewhere."""
    state = os.stat(path)
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _settled(probe: Path, stamp: Stamp) -> bool:
    """Whether a change of the tar file from now on gives it another time. If it was changed within the present tick of the
    file system's clock, the next tick is awaited, for as long as a tick of any local file system takes.

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
    """The samples by an index; None if there is none, or it is damaged or not up to date.

    Raises:
        DataError: a file of that name is no index.
    """
    try:
        written_ns = index.stat().st_mtime_ns
        head, *lines = index.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return None
    version, *words = head.split() or ["v1.1"]
    if version not in VERSIONS:
        raise DataError(f"{index}: not an index of {path}. Rename or remove it: an index of that name is written")
    own = words[1:2] == [MARK]
    if own and words[2:] != list(map(str, stamp)):
        return None
    if not own and written_ns <= max(stamp[1:3]):
        return None
    try:
        samples = [_parsed(line.split(), VERSIONS[version], own) for line in lines if line]
        if len(samples) != int(words[0]):
            return None
        if not own and not _ends_as(path, max(place for each in samples for place in each.values())):
            return None
    except (ValueError, IndexError, OSError, tarfile.TarError):
        return None
    return samples


def _ends_as(path: str, last: tuple[int, int]) -> bool:
    """Whether a tar file ends with a member of this offset and size: an index by ``wds2idx`` does not hold the file's size.

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
        raise ValueError("words are missing")
    places: Members = {}
    for at in range(0, len(words), step):
        key, offset, size = words[at], int(words[at + 1]), int(words[at + 2])
        if offset % BLOCK or offset < BLOCK or size < 0:
            raise ValueError("no place of a member")
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
