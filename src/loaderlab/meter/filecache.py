"""The page cache of a data set's files: how much of them is in memory, and how to drop them without root."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable

STILL_RESIDENT = 0.02  # share of pages that may stay: read ahead by other programs, or in use at that moment


def drop(paths: Iterable[str]) -> None:
    """Writes each file's dirty pages to disk and asks the kernel to drop the clean ones (Linux).

    Mapped pages and those of an in-memory file system stay in memory: check `resident_share` afterwards.
    """
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def resident_share(paths: Iterable[str]) -> float:
    """Share of the files' pages that are in memory, 0 to 1, according to mincore(2)."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    resident = total = 0
    for path in paths:
        size = os.path.getsize(path)
        if not size:
            continue
        pages = -(-size // mmap.PAGESIZE)
        with open(path, "rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            start = (ctypes.c_char * size).from_buffer(mapped)
            flags = (ctypes.c_ubyte * pages)()
            failed = mincore(ctypes.byref(start), ctypes.c_size_t(size), flags)
            del start  # it keeps the mapping open
            if failed:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
        resident += sum(flag & 1 for flag in flags)
        total += pages
    return resident / total if total else 0.0
