"""The samples of a tar file, read from its headers, and a check that the file is complete.

Python's tarfile stops without an error at a header that is truncated, damaged or missing, so samples would be lost silently.
A tar file is complete if an end-of-archive block of zeros follows its last member, with nothing after it.
"""

from __future__ import annotations

import shlex
import tarfile

from loaderlab.data.spec import DataError
from loaderlab.system.causes import reason

BLOCK = tarfile.BLOCKSIZE
TAIL_BYTES = 2**20  # read after the end of the archive; tar pads with zeros to a multiple of 10,240 bytes
Members = dict[str, tuple[int, int]]  # of one sample: by extension, offset and size


def scan(path: str) -> list[Members]:
    """The samples of a tar file in order. The members of a sample must be consecutive, as in WebDataset. Members whose name or
    folder begins with a dot are skipped.

    Raises:
        DataError: the file is not a tar file, is compressed or incomplete, or a sample has two members of the same name.
    """
    samples: list[Members] = []
    last = None
    after = ""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError("a member of negative size")
                after = f" after member {member.name!a}"
                folder, _, name = member.name.rpartition("/")
                base, _, extension = name.partition(".")
                hidden = any(part.startswith(".") and part not in (".", "..") for part in folder.split("/"))
                if not member.isreg() or not base or hidden:
                    continue
                if (folder, base) != last:
                    samples.append({})
                    last = (folder, base)
                if extension in samples[-1]:
                    raise DataError(
                        f"{path}: a sample has two members named {member.name!a}. Make the file again with only one of them"
                    )
                samples[-1][extension] = (member.offset_data, member.size)
            end = tar.offset
        damage = damage_at(path, end)
    except DataError:
        raise
    except Exception as error:  # for a damaged header tarfile raises other errors than its own, too
        damage = reason(error) + after
    if damage is not None:
        raise DataError(f"{path}: not a complete, uncompressed tar file: {damage}. Download or copy it again")
    return samples


def damage_at(path: str, end: int) -> str | None:
    """What is wrong with a tar file whose last member ends at this byte; None if it is complete.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(end)
        block, tail = file.read(BLOCK), file.read(TAIL_BYTES)
    if not block:
        append = f"truncate -s +{2 * BLOCK} {shlex.quote(path)}"
        return f"it ends at byte {end} without an end-of-archive block (if no member is missing, type: {append})"
    if len(block) < BLOCK:
        return f"it ends inside the header at byte {end}"
    if any(block):
        return f"the header at byte {end} is damaged"
    if any(tail):
        return f"there is more data after its end-of-archive block at byte {end}, as in several tar files joined by cat"
    return None
